//! `orderbell ledger check | backup | restore`.

use std::fs::File;
use std::io::{BufReader, BufWriter, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Subcommand;

use super::{ConfigArgs, err_line, failed, out_line, progress};
use orderbell_client::HttpClient;
use orderbell_ledger::{Ledger, OpenError};

/// Exit code of `check` for a ledger that is damaged.
const DAMAGED: u8 = 4;

#[derive(Subcommand)]
pub(crate) enum LedgerCommand {
    /// Check the integrity of the ledger and print its contents by table. The server must be stopped.
    Check {
        #[command(flatten)]
        args: ConfigArgs,
    },
    /// Write everything that is durable to a file. The server may run.
    Backup {
        /// The file to write; it must not exist.
        file: PathBuf,
        #[command(flatten)]
        args: ConfigArgs,
    },
    /// Replace the ledger with a backup; the old one is moved aside. The server must be stopped. Clients resync afterwards.
    Restore {
        /// A file that `backup` wrote.
        file: PathBuf,
        #[command(flatten)]
        args: ConfigArgs,
    },
}

pub(crate) fn run(command: &LedgerCommand) -> Result<(), ExitCode> {
    match command {
        LedgerCommand::Check { args } => check(&args.config()?.boot.data_dir),
        LedgerCommand::Backup { file, args } => {
            let config = args.config()?;
            backup(&config.boot.data_dir, config.boot.listen.admin, file)
        }
        LedgerCommand::Restore { file, args } => restore(&args.config()?.boot.data_dir, file),
    }
}

fn check(dir: &Path) -> Result<(), ExitCode> {
    let report = Ledger::check(dir).map_err(failed)?;
    out_line(&report.text);
    match report.fault {
        None => Ok(()),
        Some(fault) => {
            err_line(&format!("orderbell: the ledger is damaged: {fault}"));
            Err(ExitCode::from(DAMAGED))
        }
    }
}

fn backup(dir: &Path, admin: std::net::SocketAddr, file: &Path) -> Result<(), ExitCode> {
    // Under another name until it is complete: a file of the final name is always a usable backup.
    let unfinished = unfinished_name(file);
    // A backup holds what people ordered: nobody else on this machine reads it.
    let create = |path: &Path| File::options().write(true).create_new(true).mode(0o600).open(path);
    let made = create(file).and_then(|_| create(&unfinished).inspect_err(|_| _ = std::fs::remove_file(file)));
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
            out_line(&format!("{what} written to {}", file.display()));
            Ok(())
        }
        Err(error) => {
            let _gone = (std::fs::remove_file(&unfinished), std::fs::remove_file(file));
            Err(failed(error))
        }
    }
}

/// Beside the file, under its whole name and more: another file of a similar name is not touched.
fn unfinished_name(file: &Path) -> PathBuf {
    let mut name = file.as_os_str().to_owned();
    name.push(".unfinished");
    name.into()
}

/// Fetches the backup from the server that uses the ledger, through its admin listener.
fn fetch(admin: std::net::SocketAddr, to: &Path) -> Result<String, String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|e| e.to_string())?;
    let bar = progress(None, "bytes");
    let mut out = bar.wrap_write(BufWriter::new(File::create(to).map_err(|error| error.to_string())?));
    let bytes = runtime.block_on(HttpClient::new(admin).download("/ledger/backup", &mut out)).map_err(|error| {
        format!(
            "a server uses this ledger, and its admin listener {admin} provides no backup: {}",
            error.with_sources()
        )
    })?;
    drop(out);
    bar.finish_and_clear();
    // Verified, so that a truncated download is not taken for a backup.
    let file = opened(to).map_err(|error| error.to_string())?;
    Ledger::verify_backup(file).map_err(|error| error.to_string())?;
    Ok(format!("{bytes} bytes"))
}

/// Opens a file with a progress bar of what is read of it.
fn opened(file: &Path) -> std::io::Result<impl Read> {
    let open = File::open(file)?;
    let bar = progress(Some(open.metadata()?.len()), "bytes");
    Ok(bar.wrap_read(BufReader::new(open)))
}

fn restore(dir: &Path, file: &Path) -> Result<(), ExitCode> {
    let open = || opened(file).map_err(|error| failed(format!("{}: {error}", file.display())));
    Ledger::verify_backup(open()?).map_err(|error| failed(format!("{}: {error}", file.display())))?;
    let rows = Ledger::restore(dir, open()?).map_err(failed)?;
    out_line(&format!(
        "{rows} rows were restored into {} with a new epoch: clients resync from their open orders. The log is read again from the \
         checkpoints of the backup at the next start.",
        dir.display()
    ));
    Ok(())
}
