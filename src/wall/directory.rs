//! The store directory: what stores are called and where they are. A CSV file with a header that names the columns `id`, `name`, `city`.
//!
//! It is for screens alone: a store that is not in it rings like any other. Names and cities may change at any time; numbers are kept by
//! id, so a city's numbers are always those of the stores that are in it now.

use std::collections::HashMap;
use std::path::Path;

use orderbell_protocol::Id;
use serde::Deserialize;

/// Stores that are taken: above what any chain has.
const STORES_MAX: usize = 100_000;
/// Longest name of a store or city, in characters: it has to fit a line of a screen.
const NAME_CHARS_MAX: usize = 80;

/// A store as people know it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shop {
    /// Its name.
    pub name: Option<String>,
    /// Its city.
    pub city: Option<String>,
}

/// All stores that are known by name.
#[derive(Clone, Debug, Default)]
pub struct Directory(HashMap<Id, Shop>);

#[derive(Deserialize)]
struct Row {
    id: String,
    #[serde(default)]
    name: String,
    #[serde(default)]
    city: String,
}

impl Directory {
    /// Reads a file.
    ///
    /// # Errors
    /// In words, with the line: the file is not there, a column or an id is missing, a store stands in it twice.
    pub fn read(path: &Path) -> Result<Self, String> {
        let file = std::fs::File::open(path).map_err(|error| format!("{}: {error}", path.display()))?;
        Self::parse(file).map_err(|error| format!("{}: {error}", path.display()))
    }

    /// Reads the text of such a file.
    ///
    /// # Errors
    /// In words, with the line.
    pub fn parse(text: impl std::io::Read) -> Result<Self, String> {
        let mut table = csv::ReaderBuilder::new().trim(csv::Trim::All).flexible(true).from_reader(text);
        let header = table.headers().map_err(|error| error.to_string())?.clone();
        if !header.iter().any(|column| column.trim_start_matches('\u{feff}') == "id") {
            return Err("line 1: no column is called id".into());
        }
        let header: csv::StringRecord = header.iter().map(|column| column.trim_start_matches('\u{feff}')).collect();
        let mut stores = HashMap::new();
        for record in table.into_records() {
            let record = record.map_err(|error| error.to_string())?;
            let line = record.position().map_or(0, csv::Position::line);
            let row: Row = record.deserialize(Some(&header)).map_err(|error| format!("line {line}: {error}"))?;
            let id = Id::new(&row.id).map_err(|error| format!("line {line}: {error}"))?;
            let named = |text: String| {
                let text: String = text.chars().filter(|c| !c.is_control()).take(NAME_CHARS_MAX).collect();
                (!text.is_empty()).then_some(text)
            };
            if stores.len() >= STORES_MAX {
                return Err(format!("line {line}: more than {STORES_MAX} stores"));
            }
            let shop = Shop { name: named(row.name), city: named(row.city) };
            if stores.insert(id, shop).is_some() {
                return Err(format!("line {line}: the store {} stands here for the second time", row.id));
            }
        }
        Ok(Self(stores))
    }

    /// A store, if it is known by name.
    #[must_use]
    pub fn shop(&self, id: &Id) -> Option<&Shop> {
        self.0.get(id)
    }

    /// The ids of all stores.
    pub fn ids(&self) -> impl Iterator<Item = &Id> {
        self.0.keys()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Directory, String> {
        Directory::parse(text.as_bytes())
    }

    #[test]
    fn columns_come_in_any_order_and_may_be_missing() {
        let stores = read("\u{feff}city,id,name\n上海, 17 ,\"Nanjing Rd, West\"\n,18,\n").unwrap();
        let shop = |id: &str| stores.shop(&Id::new(id).unwrap()).cloned();
        let named = Shop { name: Some("Nanjing Rd, West".into()), city: Some("上海".into()) };
        assert_eq!(shop("17"), Some(named));
        assert_eq!(shop("18"), Some(Shop { name: None, city: None }));
        assert_eq!(shop("19"), None);
        assert!(read("id\n1\n").unwrap().ids().count() == 1);
    }

    #[test]
    fn a_mistake_is_told_with_its_line() {
        assert_eq!(read("name,city\nA,B\n").unwrap_err(), "line 1: no column is called id");
        assert!(read("id,name\n1,a\n1,b\n").unwrap_err().starts_with("line 3: the store 1"));
        assert!(read("id,name\n,a\n").unwrap_err().starts_with("line 2: an id may not be empty"));
    }
}
