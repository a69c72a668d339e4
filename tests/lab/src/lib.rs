//! What the tests share: a process that is started, read from, and ended in every way there is.

pub mod broker;
pub mod log_capture;

use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How long a scenario waits for what must come: generous, a machine may be busy with other things. `ORDERBELL_PATIENCE_S` makes it shorter
/// where waiting in vain is the usual end.
#[must_use]
pub fn patience() -> Duration {
    let seconds = std::env::var("ORDERBELL_PATIENCE_S").ok().and_then(|text| text.parse().ok());
    Duration::from_secs(seconds.unwrap_or(120))
}
/// Of what a process said before a scenario failed: enough for its last minute, and a page to read.
const LAST_LINES: usize = 120;

/// How long the rest of an output may take after its process ended. A child that it left behind may hold the output open.
const REST_OF_OUTPUT: Duration = Duration::from_secs(5);

#[derive(Default)]
struct Captured {
    text: String,
    /// Nothing more comes.
    is_closed: bool,
}

/// What a process has written so far.
#[derive(Clone, Default)]
pub struct CapturedOutput(Arc<(Mutex<Captured>, Condvar)>);

impl CapturedOutput {
    fn follow(&self, from: impl Read + Send + 'static) {
        let output = self.clone();
        std::thread::spawn(move || {
            for line in BufReader::new(from).lines().map_while(Result::ok) {
                let (captured, more) = &*output.0;
                let mut captured = captured.lock().unwrap_or_else(PoisonError::into_inner);
                captured.text.push_str(&line);
                captured.text.push('\n');
                more.notify_all();
            }
            output.0.0.lock().unwrap_or_else(PoisonError::into_inner).is_closed = true;
            output.0.1.notify_all();
        });
    }

    /// Waits until everything that an ended process wrote is here.
    fn wait_for_end(&self) {
        let (captured, more) = &*self.0;
        let open = captured.lock().unwrap_or_else(PoisonError::into_inner);
        let _closed_or_left_behind = more.wait_timeout_while(open, REST_OF_OUTPUT, |captured| !captured.is_closed);
    }

    /// Everything written so far.
    #[must_use]
    pub fn text(&self) -> String {
        self.0.0.lock().unwrap_or_else(PoisonError::into_inner).text.clone()
    }

    /// Waits for a line that `matches`.
    ///
    /// # Panics
    /// When none comes in time.
    pub fn wait_for<T>(&self, what: &str, matches: impl Fn(&str) -> Option<T>) -> T {
        self.wait_within(patience(), what, matches)
    }

    /// The same, for what takes many steps, each of which has its own bound.
    ///
    /// # Panics
    /// When none comes in time.
    pub fn wait_within<T>(&self, time: Duration, what: &str, matches: impl Fn(&str) -> Option<T>) -> T {
        let until = Instant::now() + time;
        let (captured, more) = &*self.0;
        let mut captured = captured.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            if let Some(found) = captured.text.lines().find_map(&matches) {
                return found;
            }
            let rest = until.saturating_duration_since(Instant::now());
            assert!(!rest.is_zero(), "no line with {what} came; there is:\n{}", captured.text);
            captured = more.wait_timeout(captured, rest).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

/// A process of a test. Killed when dropped.
pub struct Process {
    child: Child,
    /// Its standard output.
    pub out: CapturedOutput,
    /// Its standard error.
    pub err: CapturedOutput,
}

impl Process {
    /// Starts a program.
    ///
    /// # Panics
    /// When it cannot be started.
    #[must_use]
    pub fn start(program: &Path, args: &[&str], env: &[(&str, &str)]) -> Self {
        let mut command = Command::new(program);
        command.args(args).envs(env.iter().copied()).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        Self::follow(command.spawn().expect("the program can be started"))
    }

    /// A program that was started, with its outputs piped.
    ///
    /// # Panics
    /// When they are not.
    #[must_use]
    pub fn follow(mut child: Child) -> Self {
        let (out, err) = (CapturedOutput::default(), CapturedOutput::default());
        out.follow(child.stdout.take().expect("its output is piped"));
        err.follow(child.stderr.take().expect("its output is piped"));
        Self { child, out, err }
    }

    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Sends a signal by name: `TERM`, `KILL`, `STOP`, `CONT`.
    ///
    /// # Panics
    /// When there is no such process.
    pub fn signal(&self, name: &str) {
        let sent = Command::new("kill").args([format!("-{name}"), self.pid().to_string()]).status();
        assert!(sent.expect("kill exists").success(), "the process is gone");
    }

    /// True once it has ended.
    ///
    /// # Panics
    /// When that cannot be found out.
    pub fn is_gone(&mut self) -> bool {
        self.child.try_wait().expect("the process can be waited for").is_some()
    }

    /// Waits for its end, and for all that it wrote.
    ///
    /// # Panics
    /// When it does not end in time.
    pub fn ends(&mut self) -> ExitStatus {
        self.ends_within(patience())
    }

    /// The same, for what takes many steps, each of which has its own bound.
    ///
    /// # Panics
    /// When it does not end in time.
    pub fn ends_within(&mut self, time: Duration) -> ExitStatus {
        let until = Instant::now() + time;
        loop {
            if let Some(status) = self.child.try_wait().expect("the process can be waited for") {
                self.out.wait_for_end();
                self.err.wait_for_end();
                return status;
            }
            assert!(Instant::now() < until, "the process does not end; it said:\n{}", self.err.text());
            std::thread::park_timeout(Duration::from_millis(10));
        }
    }

    /// Ends it without a warning, and waits until it is gone.
    pub fn kill(&mut self) {
        let _gone_already = self.child.kill();
        let _reaped = self.child.wait();
    }
}

impl Drop for Process {
    /// A scenario that fails shows what its servers said: of a rare failure nothing else is left.
    fn drop(&mut self) {
        self.kill();
        if std::thread::panicking() {
            let said = self.err.text();
            let lines: Vec<&str> = said.lines().collect();
            eprintln!(
                "a process of the scenario said:\n{}",
                lines[lines.len().saturating_sub(LAST_LINES)..].join("\n")
            );
        }
    }
}

/// Small numbers that differ from run to run of a program but not from run to run of a seed: `SplitMix64`.
#[derive(Clone, Debug)]
pub struct Dice(pub u64);

impl Dice {
    /// The next number below `below`.
    pub fn below(&mut self, below: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % below.max(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The bug: a process was seen to end before its last lines were read.
    #[test]
    fn all_that_a_process_wrote_is_there_when_it_has_ended() {
        for _ in 0..50 {
            let mut process = Process::start(Path::new("/bin/sh"), &["-c", "seq 2000; echo last >&2"], &[]);
            assert!(process.ends().success());
            assert_eq!((process.out.text().lines().count(), process.err.text().as_str()), (2_000, "last\n"));
        }
    }
}
