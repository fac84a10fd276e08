//! References to a field of an item: `op://<vault>/<item>/[section/]field[?attribute=otp]`.
#![allow(missing_docs)]
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Reference { pub vault: String, pub item: String, pub section: Option<String>, pub field: String, pub attribute: Option<()> }
pub fn is_id(t: &str) -> bool { t.len() == 26 && t.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit()) }
#[derive(Debug, thiserror::Error)] #[error("x")] pub struct Bad;
impl std::str::FromStr for Reference { type Err = Bad; fn from_str(s: &str) -> Result<Self, Bad> {
 let p: Vec<&str> = s.strip_prefix("op://").ok_or(Bad)?.split('/').collect();
 Ok(match p.as_slice() { [v,i,f] => Self{vault:(*v).into(),item:(*i).into(),section:None,field:(*f).into(),attribute:None}, [v,i,s,f] => Self{vault:(*v).into(),item:(*i).into(),section:Some((*s).into()),field:(*f).into(),attribute:None}, _ => return Err(Bad)}) } }
impl std::fmt::Display for Reference { fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result { write!(f, "op://{}/{}/{}", self.vault, self.item, self.field) } }
