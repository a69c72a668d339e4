//! The state of a till in a file: its position, the notices that it knows, and the events that have no result yet.
//!
//! A save writes a temporary file, syncs it, renames it, and syncs the directory: after a power cut the file holds the old state or the new one.
//! A till whose file is missing or damaged begins with the open orders: it may ring once too often, but misses no order. What cannot be read is
//! no reason to begin anew, since the next save would replace it.

use std::fs::{self, File};
use std::io::{self, Write};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use orderbell_protocol::client::{Output, PersistedState};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::App;

/// A file that holds the state of one till. Two tills need two files.
#[derive(Clone, Debug)]
pub struct StateFile {
    path: PathBuf,
}

/// The file held no state, so the till begins with the open orders. Events that had no result yet are in the copy alone.
#[derive(Debug, thiserror::Error)]
#[error("{} holds no state and was moved to {}: beginning with the open orders", path.display(), copy.display())]
pub struct DamagedState {
    /// The file.
    pub path: PathBuf,
    /// Where its content is now. The next damaged file replaces it.
    pub copy: PathBuf,
    /// Why the content is no state.
    pub source: serde_json::Error,
}

impl StateFile {
    /// Neither reads nor creates the file; its directory must exist.
    #[must_use]
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into() }
    }

    /// The stored state; the default where there is no file, or a damaged one, which is moved aside and reported to `on_damage`.
    ///
    /// # Errors
    /// The file cannot be read, or a damaged one cannot be moved.
    pub fn load<S: DeserializeOwned + Default>(&self, on_damage: impl FnOnce(DamagedState)) -> io::Result<S> {
        let content = match fs::read(&self.path) {
            Ok(content) => content,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(S::default()),
            Err(error) => return Err(self.named(&error)),
        };
        serde_json::from_slice(&content).or_else(|source| {
            let copy = self.path.with_added_extension("damaged");
            fs::rename(&self.path, &copy).map_err(|error| self.named(&error))?;
            on_damage(DamagedState { path: self.path.clone(), copy, source });
            Ok(S::default())
        })
    }

    /// Replaces the stored state. When this returns, the new one survives a power cut.
    ///
    /// # Errors
    /// The disk does not take it; then the file holds the old state or the new one.
    pub fn save<S: Serialize>(&self, state: &S) -> io::Result<()> {
        self.replace(&serde_json::to_vec(state)?).map_err(|error| self.named(&error))
    }

    fn replace(&self, content: &[u8]) -> io::Result<()> {
        let temporary = self.path.with_added_extension("new");
        let mut file = File::create(&temporary)?;
        file.write_all(content)?;
        file.sync_all()?;
        fs::rename(&temporary, &self.path)?;
        sync_directory(self.path.parent().filter(|path| !path.as_os_str().is_empty()).unwrap_or(Path::new(".")))
    }

    /// The error with the file's name, which those of the system lack.
    fn named(&self, error: &io::Error) -> io::Error {
        io::Error::new(error.kind(), format!("{}: {error}", self.path.display()))
    }

    /// An application that keeps its state here, and does with each output what `on_output` says.
    pub fn app<F: FnMut(Output) -> ControlFlow<()>>(&self, on_output: F) -> impl App + use<F> {
        FileApp { file: self.clone(), on_output }
    }
}

/// A renamed file is only durable with its directory. Windows has no such call, and renames durably by itself.
fn sync_directory(path: &Path) -> io::Result<()> {
    if cfg!(windows) { Ok(()) } else { File::open(path)?.sync_all() }
}

struct FileApp<F> {
    file: StateFile,
    on_output: F,
}

impl<F: FnMut(Output) -> ControlFlow<()>> App for FileApp<F> {
    fn on_output(&mut self, output: Output) -> ControlFlow<()> {
        (self.on_output)(output)
    }

    fn persist(&mut self, state: &PersistedState) -> io::Result<()> {
        self.file.save(state)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn known(id: &str) -> PersistedState {
        PersistedState { known: [id.to_owned()].into(), ..PersistedState::default() }
    }

    fn no_damage(damage: DamagedState) {
        panic!("{damage}");
    }

    #[test]
    fn the_newest_state_that_was_saved_is_loaded() {
        let dir = tempfile::tempdir().unwrap();
        let file = StateFile::new(dir.path().join("till.json"));
        assert_eq!(file.load::<PersistedState>(no_damage).unwrap(), PersistedState::default(), "there is no file yet");
        file.save(&known("a")).unwrap();
        file.save(&known("b")).unwrap();
        assert_eq!(file.load::<PersistedState>(no_damage).unwrap(), known("b"));
        let names: Vec<_> = fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(names, ["till.json"], "no temporary file stays");
    }

    /// A till was switched off while it wrote, or its disk fails: it begins anew, and says so.
    #[test]
    fn a_damaged_file_is_moved_aside_and_reported() {
        let dir = tempfile::tempdir().unwrap();
        let file = StateFile::new(dir.path().join("till.json"));
        for content in ["", "{\"position\": nu", "[1]"] {
            fs::write(&file.path, content).unwrap();
            let mut damage = None;
            let state: PersistedState = file.load(|found| damage = Some(found)).unwrap();
            assert_eq!(state, PersistedState::default());
            let damage = damage.expect("it is reported");
            assert_eq!(fs::read_to_string(&damage.copy).unwrap(), content, "nothing is lost");
            assert!(damage.to_string().contains("beginning with the open orders"), "{damage}");
            assert_eq!(file.load::<PersistedState>(no_damage).unwrap(), PersistedState::default());
        }
    }

    /// What cannot be read may be whole: to begin anew would replace it.
    #[test]
    fn a_file_that_cannot_be_read_is_an_error_that_names_it() {
        let dir = tempfile::tempdir().unwrap();
        let error = StateFile::new(dir.path()).load::<PersistedState>(no_damage).unwrap_err();
        assert!(error.to_string().starts_with(&dir.path().display().to_string()), "{error}");
    }

    #[test]
    fn a_state_that_the_disk_does_not_take_is_an_error_and_the_old_one_stays() {
        let dir = tempfile::tempdir().unwrap();
        let file = StateFile::new(dir.path().join("till.json"));
        file.save(&known("a")).unwrap();
        // A directory in the place of the temporary file stands for a disk that takes nothing.
        fs::create_dir(dir.path().join("till.json.new")).unwrap();
        let error = file.save(&known("b")).unwrap_err();
        assert!(error.to_string().contains("till.json"), "{error}");
        assert_eq!(file.load::<PersistedState>(no_damage).unwrap(), known("a"));
    }
}
