//! Runs a command that prints a token, within bounds of time and output.
//!
//! It has a process group of its own, which is killed in any case when the command has ended or must: what it started in the background neither
//! goes on nor keeps anybody waiting by holding its output open. Its output is never waited for: one loop reads what is there, and looks whether
//! it has ended. What it writes to standard error goes where the server's goes.

use std::io::{self, ErrorKind, Read};
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::io::ioctl_fionbio;
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process_group, waitid};

use super::{MAX_TOKEN_BYTES, TokenError};

/// How often it is looked whether the command has ended.
const INTERVAL: Duration = Duration::from_millis(20);

/// How a run came to its end.
enum End {
    Ended,
    TimedOut,
    TooLong,
    Unwanted,
}

/// What the command prints.
pub(super) fn run(
    program: &str,
    arguments: &[String],
    timeout: Duration,
    is_wanted: impl Fn() -> bool,
) -> Result<Vec<u8>, TokenError> {
    let from = program.to_owned();
    let io = |source| TokenError::Io { from: from.clone(), source };
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).process_group(0);
    let mut child = command.spawn().map_err(io)?;
    let mut printed = Vec::new();
    let end = watch(&mut child, timeout, is_wanted, &mut printed);
    // Before the child is waited for: its number, which is the group's, may then be given to another process.
    if let Err(error) = kill_process_group(Pid::from_child(&child), Signal::KILL) {
        tracing::warn!(%error, program, "what a command for a token started was not ended");
    }
    let status = child.wait().map_err(io)?;
    match end.map_err(io)? {
        End::Ended if status.success() => Ok(printed),
        End::Ended => Err(TokenError::Failed { program: from, status }),
        End::TimedOut => Err(TokenError::Timeout { program: from, timeout }),
        End::TooLong => Err(TokenError::TooLong { from }),
        End::Unwanted => Err(TokenError::Unwanted),
    }
}

fn watch(child: &mut Child, timeout: Duration, is_wanted: impl Fn() -> bool, printed: &mut Vec<u8>) -> io::Result<End> {
    let mut out = child.stdout.take().ok_or(ErrorKind::BrokenPipe)?;
    ioctl_fionbio(&out, true)?;
    let (id, until) = (Pid::from_child(child), Instant::now() + timeout);
    loop {
        // Asked before the pipe is read, which then holds all that it printed; and left to be waited for.
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
        let has_ended = waitid(WaitId::Pid(id), options)?.is_some();
        read_available(&mut out, printed)?;
        if printed.len() > MAX_TOKEN_BYTES {
            return Ok(End::TooLong);
        }
        if has_ended {
            return Ok(End::Ended);
        }
        if Instant::now() >= until {
            return Ok(End::TimedOut);
        }
        if !is_wanted() {
            return Ok(End::Unwanted);
        }
        std::thread::park_timeout(INTERVAL);
    }
}

/// Reads what is in the pipe, up to a little above the limit.
fn read_available(out: &mut ChildStdout, printed: &mut Vec<u8>) -> io::Result<()> {
    let mut part = [0; 4096];
    while printed.len() <= MAX_TOKEN_BYTES {
        match out.read(&mut part) {
            Ok(0) => break,
            Ok(length) => printed.extend_from_slice(&part[..length]),
            Err(error) if error.kind() == ErrorKind::WouldBlock => break,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
