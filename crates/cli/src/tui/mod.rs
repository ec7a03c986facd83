//! `eyas train --tui`: a live screen of a run.
//!
//! Owns the thread that draws and reads keys. Training only fills a [`State`] behind a lock, which the thread copies ten times
//! a second before it draws, so neither waits for the other: keys work during long micro-batches, and a slow terminal stops
//! nobody. The terminal is given back on every way out.

mod charts;
mod curve;
mod keys;
mod screen;
mod state;
mod terminal;

use crate::errors::{Failure, Outcome};
use crate::output;
use crate::reporter::Reporter;
use crate::signals::Stop;
use eyas_train::Event;
use keys::{Action, View};
use ratatui::crossterm::event::{self, Event as Input};
use screen::Canvas;
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::{Handle, Signals};
use state::{Stage, State};
use std::fmt::Display;
use std::io::{self, IsTerminal, stderr, stdin};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// Frames are this far apart, where there is something new.
const FRAME: Duration = Duration::from_millis(100);
/// The clocks on the screen go on without news.
const CLOCK: Duration = Duration::from_secs(1);

/// The screen, until it is dropped.
pub(crate) struct Screen {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

struct Shared {
    state: Mutex<State>,
    is_closed: AtomicBool,
    /// Whether there is an update to save: before that, a request to stop ends the command.
    is_training: AtomicBool,
    stop: Stop,
    save: Arc<AtomicBool>,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The first time asks to stop and save; where there is nothing to save, and the second time, it ends the process.
    fn ask_to_stop(&self, signal: i32) {
        let is_training = self.is_training.load(Ordering::Relaxed);
        if is_training && !self.stop.is_requested() {
            self.stop.request(signal);
            self.state().note("stopping after this micro-batch; once more ends at once");
            return;
        }
        terminal::give_back();
        output::divert(None);
        // Training may hold the lock of the state; its warnings are lost then.
        if let Ok(state) = self.state.try_lock() {
            repeat(&state);
        }
        output::note(match is_training {
            true => "ended at once: updates since the last checkpoint are lost",
            false => "ended before the first update",
        });
        signal_hook::low_level::exit(128 + signal);
    }
}

impl Screen {
    /// Takes the terminal. `stop` is raised by `q`, Ctrl-C and signals, which are watched from here until the screen is
    /// dropped, and as usual after; `save` by `s`.
    ///
    /// # Errors
    /// Where there is no terminal.
    pub(crate) fn open(title: &Path, peak_flops: f64, stop: &Stop, save: Arc<AtomicBool>) -> Outcome<Self> {
        require_terminal()?;
        let state = State::new(title.display().to_string(), peak_flops);
        let shared = Arc::new(Shared {
            state: Mutex::new(state),
            is_closed: AtomicBool::new(false),
            is_training: AtomicBool::new(false),
            stop: stop.clone(),
            save,
        });
        let surface = terminal::take().map_err(refused)?;
        let listener = shared.clone();
        output::divert(Some(Box::new(move |line, is_warning| match is_warning {
            true => listener.state().warn(line),
            false => listener.state().note(line),
        })));
        let started = Self::start(&shared, surface).inspect_err(|_| terminal::give_back());
        let thread = started.map_err(|error| Failure::failed(format!("cannot open the screen: {error}")))?;
        Ok(Screen { shared, thread: Some(thread) })
    }

    /// The threads. One waits for signals alone, so that a terminal that takes nothing cannot keep them away from training.
    fn start(shared: &Arc<Shared>, surface: terminal::Surface) -> io::Result<JoinHandle<()>> {
        let mut signals = Signals::new([SIGINT, SIGTERM])?;
        let mut ui = Ui { shared: shared.clone(), surface, signals: signals.handle(), view: View::default() };
        let asked = shared.clone();
        let wait = move || signals.forever().for_each(|signal| asked.ask_to_stop(signal));
        thread::Builder::new().name("signals".into()).spawn(wait)?;
        thread::Builder::new().name("screen".into()).spawn(move || ui.run())
    }

    /// Takes in an event.
    pub(crate) fn event(&self, event: &Event<'_>) {
        self.shared.state().event(event);
    }

    /// Updates begin: from now on a request to stop saves first. The curves begin with `metrics`, the log of a run that
    /// goes on.
    pub(crate) fn begin(&self, metrics: &Path) {
        let is_resumed = self.shared.state().plan.as_ref().is_some_and(|plan| plan.first_step > 0);
        if is_resumed && let Ok(text) = std::fs::read_to_string(metrics) {
            let mut state = self.shared.state();
            text.lines()
                .filter_map(|line| serde_json::from_str(line).ok())
                .for_each(|line| state.history(&line));
        }
        self.shared.is_training.store(true, Ordering::Relaxed);
    }
}

impl Drop for Screen {
    /// Gives the terminal back, and repeats there what should not be lost with the screen.
    fn drop(&mut self) {
        self.shared.is_closed.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // If it panicked, that has been told.
            let _ = thread.join();
        }
        repeat(&self.shared.state());
    }
}

/// Prints warnings, and the last evaluation.
fn repeat(state: &State) {
    let (warnings, others) = state.warnings();
    warnings.iter().for_each(output::warn);
    if others > 0 {
        output::warn(format_args!("and {others} more"));
    }
    if let Some(line) = state.notes.iter().rev().find(|note| note.text.starts_with("evaluation after")) {
        output::note(&line.text);
    }
}

/// Who tells of a run: the screen, or lines and a bar.
pub(crate) enum Teller {
    /// Lines and a bar.
    Lines(Reporter),
    /// The screen.
    Screen(Screen),
}

impl Teller {
    /// Takes in an event.
    pub(crate) fn event(&mut self, event: &Event<'_>) {
        match self {
            Teller::Lines(reporter) => reporter.event(event),
            Teller::Screen(screen) => screen.event(event),
        }
    }

    /// Updates begin: from now on the first request to stop saves first.
    pub(crate) fn begin(&self, metrics: &Path, stop: &Stop) -> Outcome {
        match self {
            Teller::Lines(_) => stop.watch(),
            Teller::Screen(screen) => {
                screen.begin(metrics);
                Ok(())
            }
        }
    }
}

/// Refuses a screen where there is no terminal for it: it is drawn on stderr, and keys come from stdin.
pub(crate) fn require_terminal() -> Outcome {
    for (name, is_terminal) in [("stderr", stderr().is_terminal()), ("stdin", stdin().is_terminal())] {
        if !is_terminal {
            return Err(refused(format_args!("{name} is not a terminal")));
        }
    }
    Ok(())
}

fn refused(why: impl Display) -> Failure {
    Failure::usage(format!("--tui needs a terminal: {why}"))
        .hint("leave it out: a run then tells its progress line by line, wherever that goes")
}

/// What the thread has.
struct Ui {
    shared: Arc<Shared>,
    surface: terminal::Surface,
    signals: Handle,
    view: View,
}

/// Gives everything back when the thread ends, by a panic too.
struct Leave {
    shared: Arc<Shared>,
    signals: Handle,
}

impl Drop for Leave {
    fn drop(&mut self) {
        terminal::give_back();
        output::divert(None);
        self.signals.close();
        // If that fails, nothing but the end of the run stops it.
        let _ = self.shared.stop.watch();
    }
}

impl Ui {
    fn run(&mut self) {
        let _leave = Leave { shared: self.shared.clone(), signals: self.signals.clone() };
        if let Err(error) = self.draw_until_closed() {
            self.shared.state().warn(&format!("the screen ended, training went on: {error}"));
        }
    }

    fn draw_until_closed(&mut self) -> io::Result<()> {
        let mut canvas = Canvas::new(crate::errors::has_colour());
        let (mut drawn, mut drawn_at) = (None, Instant::now());
        while !self.shared.is_closed.load(Ordering::Relaxed) {
            let now = (self.shared.state().version, self.view);
            if drawn != Some(now) || drawn_at.elapsed() >= CLOCK {
                let state = self.shared.state().clone();
                let (surface, view, is_stopping) =
                    (&mut self.surface, self.view, self.shared.stop.is_requested());
                let draw = || surface.draw(|frame| canvas.draw(frame, &state, view, is_stopping)).map(drop);
                if !terminal::with_taken(draw)? {
                    // Another thread panicked.
                    return Ok(());
                }
                (drawn, drawn_at) = (Some(now), Instant::now());
            }
            self.wait()?;
        }
        Ok(())
    }

    /// Waits for the next frame, and takes in keys until then.
    fn wait(&mut self) -> io::Result<()> {
        let until = Instant::now() + FRAME;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            if !event::poll(left)? {
                return Ok(());
            }
            match event::read()? {
                Input::Key(key) => match self.view.key(key) {
                    Some(Action::Stop) => self.shared.ask_to_stop(SIGINT),
                    Some(Action::Save) => self.save(),
                    Some(Action::Redraw) => terminal::redraw(&mut self.surface)?,
                    None => {}
                },
                Input::Resize(..) => self.shared.state().version += 1,
                _ => {}
            }
        }
    }

    fn save(&self) {
        let mut state = self.shared.state();
        match state.stage {
            Stage::Preparing | Stage::Done => {}
            _ => {
                self.shared.save.store(true, Ordering::Relaxed);
                state.note("a checkpoint is saved after this update");
            }
        }
    }
}

#[cfg(test)]
mod tests;
