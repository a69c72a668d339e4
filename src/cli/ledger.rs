//! `orderbell ledger check | backup | restore`.

use std::fs::File;
use std::io::{BufReader, BufWriter, Read};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Subcommand;

use super::{FAILED, Place, progress, say, tell};
use crate::client::Http;
use crate::ledger::{Ledger, OpenError};

/// Something that the ledger was asked for is not so.
const NOT_WHOLE: u8 = 4;

#[derive(Subcommand)]
pub(crate) enum LedgerCommand {
    /// Look whether the ledger is whole, and what is in it. Nothing may run on it.
    Check {
        #[command(flatten)]
        place: Place,
    },
    /// Write everything that is durable into a file; also while the server runs.
    Backup {
        /// The file; must not be there.
        file: PathBuf,
        #[command(flatten)]
        place: Place,
    },
    /// Put a backup in the place of the ledger; the old one is set aside. Nothing may run on it. Clients resync.
    Restore {
        /// A file that `backup` wrote.
        file: PathBuf,
        #[command(flatten)]
        place: Place,
    },
}

fn failed(what: impl std::fmt::Display) -> ExitCode {
    say(&format!("orderbell: {what}"));
    ExitCode::from(FAILED)
}

pub(crate) fn run(command: &LedgerCommand) -> Result<(), ExitCode> {
    match command {
        LedgerCommand::Check { place } => check(&place.config()?.data_dir),
        LedgerCommand::Backup { file, place } => {
            let config = place.config()?;
            backup(&config.data_dir, config.listen.admin, file)
        }
        LedgerCommand::Restore { file, place } => restore(&place.config()?.data_dir, file),
    }
}

fn check(dir: &Path) -> Result<(), ExitCode> {
    let report = Ledger::check(dir).map_err(failed)?;
    tell(&report.text);
    match report.fault {
        None => Ok(()),
        Some(fault) => {
            say(&format!("orderbell: the ledger is not whole: {fault}"));
            Err(ExitCode::from(NOT_WHOLE))
        }
    }
}

fn backup(dir: &Path, admin: std::net::SocketAddr, file: &Path) -> Result<(), ExitCode> {
    // Under another name until it is whole: a file of the right name is a backup.
    let unfinished = file.with_extension("unfinished");
    let made = File::options().write(true).create_new(true).open(file).and_then(|_| File::create(&unfinished));
    let out = BufWriter::new(made.map_err(|error| failed(format!("{}: {error}", file.display())))?);
    let bar = progress(None, "rows");
    let written = match Ledger::write_backup(dir, out, |rows| bar.set_position(rows)) {
        Ok(rows) => Ok(format!("{rows} rows")),
        Err(OpenError::InUse(_)) => fetch(admin, &unfinished),
        Err(error) => Err(error.to_string()),
    };
    bar.finish_and_clear();
    let named = written.and_then(|what| std::fs::rename(&unfinished, file).map(|()| what).map_err(|e| e.to_string()));
    match named {
        Ok(what) => {
            tell(&format!("{what} are in {}", file.display()));
            Ok(())
        }
        Err(error) => {
            let _gone = (std::fs::remove_file(&unfinished), std::fs::remove_file(file));
            Err(failed(error))
        }
    }
}

/// From the server that runs on the ledger, by its admin listener.
fn fetch(admin: std::net::SocketAddr, to: &Path) -> Result<String, String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|e| e.to_string())?;
    let bar = progress(None, "bytes");
    let mut out = bar.wrap_write(BufWriter::new(File::create(to).map_err(|error| error.to_string())?));
    let bytes = runtime.block_on(Http::new(admin).save("/ledger/backup", &mut out)).map_err(|error| {
        format!("a server runs on this ledger, and its admin listener {admin} does not give a backup: {error}")
    })?;
    drop(out);
    bar.finish_and_clear();
    // Read once, so that a file that was cut off on the way is no backup.
    let file = opened(to).map_err(|error| error.to_string())?;
    Ledger::verify_backup(file).map_err(|error| error.to_string())?;
    Ok(format!("{bytes} bytes"))
}

/// A file, with a bar for how much of it is read.
fn opened(file: &Path) -> std::io::Result<impl Read> {
    let open = File::open(file)?;
    let bar = progress(Some(open.metadata()?.len()), "bytes");
    Ok(bar.wrap_read(BufReader::new(open)))
}

fn restore(dir: &Path, file: &Path) -> Result<(), ExitCode> {
    let open = || opened(file).map_err(|error| failed(format!("{}: {error}", file.display())));
    Ledger::verify_backup(open()?).map_err(|error| failed(format!("{}: {error}", file.display())))?;
    let rows = Ledger::restore(dir, open()?).map_err(failed)?;
    tell(&format!(
        "{rows} rows are back in {}, in a new epoch: clients take their open orders and go on. The log is read again from the backup's \
         frontiers at the next start.",
        dir.display()
    ));
    Ok(())
}
