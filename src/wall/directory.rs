//! The store directory: names and cities of stores, from a CSV file with a header that names the columns `id`, `name`, `city`.
//!
//! Only screens use it: a store that is not listed is notified like any other. Names and cities may change at any time; counters are kept by
//! store id, so a city's numbers are always those of the stores that the directory places in it now.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use orderbell_protocol::Id;
use orderbell_protocol::recipient::BadId;
use serde::Deserialize;

/// Stores in one directory: more than any chain has.
const STORES_MAX: usize = 100_000;
/// Longest name of a store or city, in characters: it has to fit a line of a screen.
const NAME_CHARS_MAX: usize = 80;

/// How a store is shown to people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoreEntry {
    /// Shown on screens; without it, the store id is.
    pub name: Option<String>,
    /// The city under which its orders are summed up.
    pub city: Option<String>,
}

/// All stores of the directory file, by id.
#[derive(Clone, Debug, Default)]
pub struct StoreDirectory(HashMap<Id, StoreEntry>);

#[derive(Deserialize)]
struct Row {
    id: String,
    #[serde(default)]
    name: String,
    #[serde(default)]
    city: String,
}

/// Why the content of a directory file cannot be used. Each error names its line.
#[derive(Debug, thiserror::Error)]
pub enum DirectoryError {
    /// It is no table in UTF-8.
    #[error("{}", sentence(.0))]
    Table(#[from] csv::Error),
    /// A line has not what it must have.
    #[error("line {line}: {source}")]
    Row {
        /// From 1 on.
        line: u64,
        /// What is wrong with it.
        source: RowError,
    },
}

/// What is wrong with a line of a directory file.
#[derive(Debug, thiserror::Error)]
pub enum RowError {
    /// The header does not name the column `id`.
    #[error("the column id is missing")]
    NoIdColumn,
    /// A column is missing.
    #[error("{0}")]
    Columns(#[from] csv::Error),
    /// The id is none.
    #[error("{0}")]
    Id(#[from] BadId),
    /// The store was listed before.
    #[error("the store {0} is listed twice")]
    Twice(Id),
    /// There are more stores than a directory may have.
    #[error("more than {STORES_MAX} stores")]
    TooMany,
}

/// A directory file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DirectoryFileError {
    /// It cannot be opened.
    #[error("{}: {source}", .path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// The operating system's error.
        source: std::io::Error,
    },
    /// Its content is not that of a directory.
    #[error("{}: {source}", .path.display())]
    Content {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: DirectoryError,
    },
}

impl StoreDirectory {
    /// Reads a directory file.
    ///
    /// # Errors
    /// The file does not exist, a column or an id is missing, or a store is listed twice.
    pub fn read(path: &Path) -> Result<Self, DirectoryFileError> {
        let file = std::fs::File::open(path);
        let file = file.map_err(|source| DirectoryFileError::Open { path: path.to_owned(), source })?;
        Self::parse(file).map_err(|source| DirectoryFileError::Content { path: path.to_owned(), source })
    }

    /// Parses the content of a directory file.
    ///
    /// # Errors
    /// [`DirectoryError`].
    pub fn parse(text: impl std::io::Read) -> Result<Self, DirectoryError> {
        let mut table = csv::ReaderBuilder::new().trim(csv::Trim::All).flexible(true).from_reader(text);
        let header = table.headers()?.clone();
        if !header.iter().any(|column| column.trim_start_matches('\u{feff}') == "id") {
            return Err(DirectoryError::Row { line: 1, source: RowError::NoIdColumn });
        }
        let header: csv::StringRecord = header.iter().map(|column| column.trim_start_matches('\u{feff}')).collect();
        let mut stores = HashMap::new();
        for record in table.into_records() {
            let record = record?;
            let line = record.position().map_or(0, csv::Position::line);
            let wrong = |source| DirectoryError::Row { line, source };
            let row: Row = record.deserialize(Some(&header)).map_err(|error| wrong(error.into()))?;
            let id = Id::parse(&row.id).map_err(|error| wrong(error.into()))?;
            let non_empty = |text: String| {
                let text: String = text.chars().filter(|c| !c.is_control()).take(NAME_CHARS_MAX).collect();
                (!text.is_empty()).then_some(text)
            };
            if stores.len() >= STORES_MAX {
                return Err(wrong(RowError::TooMany));
            }
            let entry = StoreEntry { name: non_empty(row.name), city: non_empty(row.city) };
            if stores.insert(id.clone(), entry).is_some() {
                return Err(wrong(RowError::Twice(id)));
            }
        }
        Ok(Self(stores))
    }

    /// The entry of a store, if the directory lists it.
    #[must_use]
    pub fn entry(&self, id: &Id) -> Option<&StoreEntry> {
        self.0.get(id)
    }

    /// The ids of all listed stores, in no particular order.
    pub fn ids(&self) -> impl Iterator<Item = &Id> {
        self.0.keys()
    }
}

/// What is wrong with the file. Spreadsheets save in the encoding of their machine, such as GBK, unless they are set otherwise.
fn sentence(error: &csv::Error) -> String {
    match error.kind() {
        csv::ErrorKind::Utf8 { pos, .. } => {
            let line = pos.as_ref().map_or(1, csv::Position::line);
            format!("line {line}: not UTF-8: save it as CSV UTF-8")
        }
        _ => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<StoreDirectory, DirectoryError> {
        StoreDirectory::parse(text.as_bytes())
    }

    /// Regression: Excel saves in GBK in China, and the error named a byte of a field.
    #[test]
    fn a_file_in_another_encoding_is_named_with_its_line() {
        let error = |bytes: &[u8]| StoreDirectory::parse(bytes).unwrap_err().to_string();
        assert_eq!(error(b"id,name\n17,\xc4\xcf\xbe\xa9\n"), "line 2: not UTF-8: save it as CSV UTF-8");
        assert_eq!(error(b"id,\xc3\xfb\n17,x\n"), "line 1: not UTF-8: save it as CSV UTF-8");
        assert_eq!(error(b"\xff\xfei\0d\0"), "line 1: not UTF-8: save it as CSV UTF-8");
    }

    #[test]
    fn columns_may_be_in_any_order_and_optional_ones_missing() {
        let stores = read("\u{feff}city,id,name\n上海, 17 ,\"Nanjing Rd, West\"\n,18.0,\n").unwrap();
        let entry = |id: &str| stores.entry(&Id::new(id).unwrap()).cloned();
        let named = StoreEntry { name: Some("Nanjing Rd, West".into()), city: Some("上海".into()) };
        assert_eq!(entry("17"), Some(named));
        assert_eq!(entry("18"), Some(StoreEntry { name: None, city: None }));
        assert_eq!(entry("19"), None);
        assert!(read("id\n1\n").unwrap().ids().count() == 1);
    }

    #[test]
    fn an_error_names_its_line() {
        let error = |text: &str| read(text).unwrap_err().to_string();
        assert_eq!(error("name,city\nA,B\n"), "line 1: the column id is missing");
        assert!(error("id,name\n1,a\n1,b\n").starts_with("line 3: the store 1"));
        assert!(error("id,name\n17.0,a\n17,b\n").starts_with("line 3: the store 17"), "one store twice");
        assert!(error("id,name\n,a\n").starts_with("line 2: an id may not be empty"));
    }
}
