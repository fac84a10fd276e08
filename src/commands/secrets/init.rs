//! `opsctl secrets init`: a configuration file to begin with.

use std::fs::OpenOptions;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use clap::Args;
use schemars::JsonSchema;
use serde::Serialize;

use crate::commands::Session;
use crate::secrets::propose;
use crate::ui::{self, Output};
use crate::{Context as _, Error, ExitCode, Result};

/// Write a configuration file to begin with, out of the profile
///
/// It maps every variable that the profile requires, and has the optional ones
/// commented out. What only a person knows stands in <…>; until that is filled
/// in, nothing can be planned. A file that exists is never changed.
///
/// Example: opsctl secrets init --profile openwork
/// Example: opsctl secrets init --output - > secrets.toml
///
/// Exit codes: 0 written, 2 usage, or the file exists
#[derive(Args, Debug)]
#[command(verbatim_doc_comment)]
pub struct InitArgs {
    /// Where it is written; `-` is standard output
    #[arg(long, value_name = "FILE", default_value = "opsctl.toml")]
    output: PathBuf,
}

/// The result of `secrets init`.
#[derive(Debug, Serialize, JsonSchema)]
pub struct InitReport {
    /// The file that was written; null for standard output.
    file: Option<String>,
    /// Its content.
    content: String,
}

pub(super) fn run(args: &InitArgs, session: &Session<'_>, out: &mut Output) -> Result<ExitCode> {
    let content = propose::file(&session.settings.profile.value);
    let is_stdout = args.output == Path::new("-");
    if !is_stdout {
        write(&args.output, &content)?;
    }
    let shown = args.output.display().to_string();
    let report = InitReport { file: (!is_stdout).then(|| shown.clone()), content };
    out.result(&report, |_| match &report.file {
        None => report.content.clone(),
        Some(_) => {
            let named =
                if shown == "opsctl.toml" { String::new() } else { format!(" --config {}", ui::shell_word(&shown)) };
            format!("wrote {shown}: fill in what stands in <…>, then run `opsctl{named} secrets plan`")
        }
    })?;
    Ok(ExitCode::Ok)
}

fn write(path: &Path, content: &str) -> Result<()> {
    let shown = path.display();
    let mut file = OpenOptions::new().write(true).create_new(true).open(path).map_err(|error| {
        let hint =
            "name another one with --output, or write to standard output with --output - and put the parts together";
        Error::usage(format!("cannot make {shown}")).because(error).hint(hint)
    })?;
    file.write_all(content.as_bytes()).context(|| format!("writing {shown}"))
}
