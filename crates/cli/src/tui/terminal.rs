//! Taking the terminal and giving it back, whatever happens in between.
//!
//! The screen is drawn on stderr, so that results on stdout can go to a file. The trick: giving it back waits for the frame that is
//! being written, so that what a panic on another thread says is not painted over.

use ratatui::Terminal;
use ratatui::backend::CrosstermBackend;
use ratatui::crossterm::cursor::Show;
use ratatui::crossterm::execute;
use ratatui::crossterm::terminal::{
    EnterAlternateScreen, LeaveAlternateScreen, disable_raw_mode, enable_raw_mode,
};
use std::io::{self, BufWriter, Stderr, stderr};
use std::panic;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, Once, TryLockError};
use std::thread;
use std::time::Duration;

/// Where frames go, in one write each.
pub(super) type Surface = Terminal<CrosstermBackend<BufWriter<Stderr>>>;

/// A frame with all its escapes fits.
const FRAME_BYTES: usize = 1 << 16;

static IS_TAKEN: AtomicBool = AtomicBool::new(false);
/// Held while a frame is written.
static DRAWING: Mutex<()> = Mutex::new(());
static HOOK: Once = Once::new();

/// Takes the terminal: no line editing, no echo, a page of its own.
pub(super) fn take() -> io::Result<Surface> {
    HOOK.call_once(|| {
        let before = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            give_back();
            before(info);
        }));
    });
    enable_raw_mode()?;
    IS_TAKEN.store(true, Ordering::Relaxed);
    let begun = execute!(stderr(), EnterAlternateScreen).and_then(|()| {
        let writer = BufWriter::with_capacity(FRAME_BYTES, stderr());
        let mut surface = Terminal::new(CrosstermBackend::new(writer))?;
        redraw(&mut surface)?;
        Ok(surface)
    });
    begun.inspect_err(|_| give_back())
}

/// Clears the screen, so that the next frame is drawn whole. `Terminal::clear` would ask the terminal on stdout where its
/// cursor is.
pub(super) fn redraw(surface: &mut Surface) -> io::Result<()> {
    let size = surface.size()?;
    surface.resize(size.into())
}

/// Draws a frame, unless the terminal was given back.
pub(super) fn with_taken(draw: impl FnOnce() -> io::Result<()>) -> io::Result<bool> {
    let drawing = lock();
    let is_taken = drawing.is_some() && IS_TAKEN.load(Ordering::Relaxed);
    if is_taken { draw().map(|()| true) } else { Ok(false) }
}

/// Gives the terminal back as it was; does nothing the second time.
pub(super) fn give_back() {
    let _drawing = lock();
    if IS_TAKEN.swap(false, Ordering::Relaxed) {
        // Without a terminal there is nothing to give back.
        let _ = disable_raw_mode();
        let _ = execute!(stderr(), LeaveAlternateScreen, Show);
    }
}

/// The right to draw; `None` if a frame does not come to its end, since it panicked on this thread or the terminal takes
/// nothing.
fn lock() -> Option<MutexGuard<'static, ()>> {
    for _ in 0..20 {
        match DRAWING.try_lock() {
            Ok(guard) => return Some(guard),
            Err(TryLockError::Poisoned(poisoned)) => return Some(poisoned.into_inner()),
            Err(TryLockError::WouldBlock) => thread::sleep(Duration::from_millis(10)),
        }
    }
    None
}
