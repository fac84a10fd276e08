//! Requests checked against Railway's schema: the whole one where it is at hand, and the part of it that opsctl has of its own.

use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use apollo_compiler::ast::Value as Ast;
use apollo_compiler::executable::{Field, Selection, SelectionSet};
use apollo_compiler::response::JsonMap;
use apollo_compiler::validation::Valid;
use apollo_compiler::{ExecutableDocument, Node, Schema};
use serde_json::{Map, Value};

/// The schema that opsctl is compiled against.
pub const OWN: &str = include_str!("../../../src/providers/railway/schema.graphql");

/// Railway's whole schema, where it is at hand; said on stderr where not.
pub fn whole() -> Option<&'static Valid<Schema>> {
    static WHOLE: LazyLock<Option<Valid<Schema>>> = LazyLock::new(|| {
        let beside = || Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/reference/data");
        let folder = std::env::var_os("OPSCTL_TEST_RECORDINGS").map_or_else(beside, PathBuf::from);
        if !folder.is_dir() {
            // Not by a macro, which is not shown when the test passes.
            let line = "NOT TESTED: Railway's whole schema is not at hand (OPSCTL_TEST_RECORDINGS names its folder)\n";
            let _ = std::io::Write::write_all(&mut std::io::stderr(), line.as_bytes());
            return None;
        }
        let text = std::fs::read_to_string(folder.join("railway-schema.graphql")).expect("Railway's schema");
        Some(Schema::parse_and_validate(text, "railway-schema.graphql").expect("a schema that is valid"))
    });
    WHOLE.as_ref()
}

/// The part of it that opsctl uses.
pub fn own() -> &'static Valid<Schema> {
    static SMALL: LazyLock<Valid<Schema>> =
        LazyLock::new(|| Schema::parse_and_validate(OWN, "schema.graphql").expect("a schema that is valid"));
    &SMALL
}

/// A request that is valid.
pub struct Checked {
    document: Valid<ExecutableDocument>,
    variables: Map<String, Value>,
}

impl Checked {
    /// What is wrong with it, otherwise. Where the whole schema is at hand, it decides: a test may send what opsctl never
    /// does, such as an upsert that replaces.
    pub fn new(document: &str, variables: &Map<String, Value>) -> Result<Self, String> {
        Self::against(whole().unwrap_or_else(own), document, variables)
    }

    /// Against one schema.
    pub fn against(schema: &Valid<Schema>, document: &str, variables: &Map<String, Value>) -> Result<Self, String> {
        let document = ExecutableDocument::parse_and_validate(schema, document, "request.graphql")
            .map_err(|e| e.errors.to_string())?;
        let given: JsonMap = serde_json::from_value(Value::Object(variables.clone())).map_err(|e| e.to_string())?;
        let operation = document.operations.get(None).map_err(|e| e.message().to_string())?;
        let coerced = apollo_compiler::request::coerce_variable_values(schema, operation, &given)
            .map_err(|e| e.message().to_string())?;
        let coerced = serde_json::to_value(&*coerced).map_err(|e| e.to_string())?;
        let Value::Object(variables) = coerced else { return Err("variables are an object".to_owned()) };
        Ok(Self { document, variables })
    }

    /// The one field that is asked for.
    pub fn root(&self) -> &Node<Field> {
        let operation = self.document.operations.get(None).expect("one operation");
        let mut fields = operation.root_fields(&self.document);
        let root = fields.next().expect("a field");
        assert!(fields.next().is_none(), "the stand-in answers one field at a time");
        root
    }

    /// The arguments of a field, as far as they are given.
    pub fn arguments(&self, field: &Field) -> Map<String, Value> {
        let given = field.arguments.iter();
        given.filter_map(|argument| Some((argument.name.to_string(), self.json(&argument.value)?))).collect()
    }

    /// The arguments of a field below this one.
    pub fn arguments_below(&self, field: &Field, name: &str) -> Map<String, Value> {
        let below = self.fields(&field.selection_set).into_iter().find(|below| below.name == name);
        below.map(|below| self.arguments(below)).unwrap_or_default()
    }

    fn fields<'s>(&'s self, set: &'s SelectionSet) -> Vec<&'s Node<Field>> {
        let of = |selection: &'s Selection| match selection {
            Selection::Field(field) => vec![field],
            Selection::FragmentSpread(spread) => {
                self.fields(&spread.fragment_def(&self.document).expect("a fragment").selection_set)
            }
            Selection::InlineFragment(fragment) => self.fields(&fragment.selection_set),
        };
        set.selections.iter().flat_map(of).collect()
    }

    /// A value without the variables that were not given.
    fn json(&self, value: &Ast) -> Option<Value> {
        Some(match value {
            Ast::Null => Value::Null,
            Ast::Variable(name) => self.variables.get(name.as_str())?.clone(),
            Ast::Enum(name) => name.as_str().into(),
            Ast::String(text) => text.as_str().into(),
            Ast::Boolean(is_true) => (*is_true).into(),
            Ast::Int(number) => number.try_to_i32().expect("a number").into(),
            Ast::Float(number) => number.try_to_f64().expect("a number").into(),
            Ast::List(items) => items.iter().filter_map(|item| self.json(item)).collect(),
            Ast::Object(entries) => {
                let given = entries.iter().filter_map(|(name, value)| Some((name.to_string(), self.json(value)?)));
                Value::Object(given.collect())
            }
        })
    }

    /// Of all that there is, what was asked for.
    pub fn select(&self, field: &Field, all: &Value) -> Result<Value, String> {
        let fields = self.fields(&field.selection_set);
        match all {
            Value::Array(items) => items.iter().map(|item| self.select(field, item)).collect(),
            Value::Object(there) if !fields.is_empty() => {
                let mut chosen = Map::new();
                for below in fields {
                    let value = there.get(below.name.as_str());
                    let value = value.ok_or_else(|| format!("the stand-in does not know {}", below.name))?;
                    chosen.insert(below.response_key().to_string(), self.select(below, value)?);
                }
                Ok(Value::Object(chosen))
            }
            other => Ok(other.clone()),
        }
    }
}
