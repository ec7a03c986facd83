//! A child process: started, watched, signalled, and never left behind.

use super::error::Error;
use rustix::process::{Pid, Signal, kill_process};
use std::fmt;
use std::fs::{self, File};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

/// How often a process is looked at. Sleeping for less takes more of a core and is not shorter on Linux, whose timers have
/// a slack of 50 us.
const GLANCE: Duration = Duration::from_micros(50);
/// No run here is near that long; a process that is hangs.
pub(crate) const HANG: Duration = Duration::from_secs(120);

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ended {
    /// By itself, with a status.
    Exit(i32),
    /// By a signal.
    Signal(i32),
}

impl fmt::Display for Ended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Ended::Exit(status) => write!(f, "exit status {status}"),
            Ended::Signal(signal) => write!(f, "signal {signal}"),
        }
    }
}

impl From<ExitStatus> for Ended {
    fn from(status: ExitStatus) -> Self {
        match (status.code(), status.signal()) {
            (Some(code), _) => Ended::Exit(code),
            (None, signal) => Ended::Signal(signal.unwrap_or(0)),
        }
    }
}

/// A process that is killed when this is dropped.
pub(crate) struct Running {
    child: Child,
    ended: Option<Ended>,
    started: Instant,
    /// How often it is looked at.
    pub(crate) glance: Duration,
    /// What it says goes here.
    pub(crate) stderr: PathBuf,
}

impl Running {
    /// Starts a program in folder `cwd`; its stderr goes to the file `stderr`, and what it prints nowhere.
    pub(crate) fn start(
        program: &Path,
        arguments: &[String],
        cwd: &Path,
        stderr: PathBuf,
    ) -> Result<Self, Error> {
        let mut command = Command::new(program);
        Running::spawn(command.args(arguments).current_dir(cwd).stdout(Stdio::null()), stderr)
    }

    /// Starts a command that says where it prints; its stderr goes to the file `stderr`.
    pub(crate) fn spawn(command: &mut Command, stderr: PathBuf) -> Result<Self, Error> {
        let file = File::create(&stderr).map_err(Error::io("write", &stderr))?;
        let started = Instant::now();
        let child = command.env("NO_COLOR", "1").stdin(Stdio::null()).stderr(file).spawn();
        let child = child.map_err(Error::io("start", Path::new(command.get_program())))?;
        Ok(Running { child, ended: None, started, glance: GLANCE, stderr })
    }

    /// Time since it was started.
    pub(crate) fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }

    /// What it said so far.
    pub(crate) fn said(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.stderr).unwrap_or_default()).into_owned()
    }

    /// How it ended; `None` while it runs.
    pub(crate) fn poll(&mut self) -> Result<Option<Ended>, Error> {
        if self.ended.is_none() {
            let status = self.child.try_wait().map_err(Error::io("wait for", &self.stderr))?;
            self.ended = status.map(Ended::from);
        }
        Ok(self.ended)
    }

    /// Waits until `is_met`, looking every `glance`. Returns how the process ended, if it did before.
    pub(crate) fn wait_until(
        &mut self,
        is_met: &mut dyn FnMut(Duration) -> bool,
    ) -> Result<Option<Ended>, Error> {
        loop {
            // In this order: what the process did before it ended is seen.
            let ended = self.poll()?;
            if is_met(self.elapsed()) {
                return Ok(None);
            }
            if ended.is_some() {
                return Ok(ended);
            }
            thread::sleep(self.glance);
        }
    }

    /// Waits for its end. `None` if it is longer than `limit`: it is killed then.
    pub(crate) fn wait(&mut self, limit: Duration) -> Result<Option<Ended>, Error> {
        let until = self.elapsed() + limit;
        let ended = self.wait_until(&mut |elapsed| elapsed > until)?;
        if ended.is_none() {
            self.kill()?;
        }
        Ok(ended)
    }

    /// Sends a signal; to a process that has just ended, nothing.
    pub(crate) fn signal(&self, signal: Signal) -> Result<(), Error> {
        match kill_process(Pid::from_child(&self.child), signal) {
            Ok(()) | Err(rustix::io::Errno::SRCH) => Ok(()),
            Err(errno) => Err(Error::io("send a signal to", &self.stderr)(errno.into())),
        }
    }

    /// SIGKILL, and how it ended in truth: it may have been faster.
    pub(crate) fn kill(&mut self) -> Result<Ended, Error> {
        if let Some(ended) = self.ended {
            return Ok(ended);
        }
        self.signal(Signal::KILL)?;
        let status = self.child.wait().map_err(Error::io("wait for", &self.stderr))?;
        Ok(*self.ended.insert(status.into()))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if self.ended.is_none() {
            // Nobody is left to tell.
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

/// Lets a time pass exactly: the end of it is not slept, since a sleep is longer by the timers' slack.
pub(crate) fn spin(time: Duration) {
    let begun = Instant::now();
    thread::sleep(time.saturating_sub(Duration::from_millis(1)));
    while begun.elapsed() < time {
        std::hint::spin_loop();
    }
}
