//! What keys do.

use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyEventKind, KeyModifiers};

/// What the lower part of the screen shows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Page {
    #[default]
    Overview,
    Loss,
    Samples,
    Notes,
}

impl Page {
    pub(super) const ALL: [Page; 4] = [Page::Overview, Page::Loss, Page::Samples, Page::Notes];

    pub(super) fn name(self) -> &'static str {
        match self {
            Page::Overview => "overview",
            Page::Loss => "loss",
            Page::Samples => "samples",
            Page::Notes => "notes",
        }
    }

    /// The page `by` further on, in a ring.
    fn moved(self, by: usize) -> Page {
        Page::ALL[(self as usize + by) % Page::ALL.len()]
    }
}

/// What the person chose to see.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct View {
    pub(super) page: Page,
    pub(super) has_help: bool,
    /// Whether steps are on a logarithmic axis.
    pub(super) is_log: bool,
}

/// What a key asks for beyond the view.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Action {
    /// Stop after this micro-batch and save; the second time, end at once.
    Stop,
    /// Save a checkpoint now.
    Save,
    /// Draw everything again.
    Redraw,
}

impl View {
    /// Takes in a key.
    pub(super) fn key(&mut self, key: KeyEvent) -> Option<Action> {
        if key.kind == KeyEventKind::Release {
            return None;
        }
        let has_control = key.modifiers.contains(KeyModifiers::CONTROL);
        match key.code {
            KeyCode::Char('c') if has_control => return Some(Action::Stop),
            KeyCode::Char('l') if has_control => return Some(Action::Redraw),
            _ if has_control => {}
            KeyCode::Char('q') => return Some(Action::Stop),
            KeyCode::Char('s') => return Some(Action::Save),
            KeyCode::Char('?' | 'h') => self.has_help = !self.has_help,
            KeyCode::Esc => self.has_help = false,
            KeyCode::Char('l') => self.is_log = !self.is_log,
            KeyCode::Tab | KeyCode::Right | KeyCode::Down => self.page = self.page.moved(1),
            KeyCode::BackTab | KeyCode::Left | KeyCode::Up => {
                self.page = self.page.moved(Page::ALL.len() - 1);
            }
            KeyCode::Char(digit @ '1'..='4') => self.page = Page::ALL[digit as usize - '1' as usize],
            _ => {}
        }
        None
    }
}

/// Keys and what they do, for the help.
pub(super) const HELP: [(&str, &str); 7] = [
    ("q, Ctrl-C", "stop after this micro-batch and save"),
    ("again", "end at once, nothing more is saved"),
    ("s", "save a checkpoint now"),
    ("Tab, arrows, 1-4", "overview, loss, samples, notes"),
    ("l", "steps on a logarithmic axis"),
    ("Ctrl-L", "draw everything again"),
    ("?", "this help"),
];

#[cfg(test)]
mod tests {
    use super::*;

    fn press(view: &mut View, code: KeyCode) -> Option<Action> {
        view.key(KeyEvent::new(code, KeyModifiers::NONE))
    }

    #[test]
    fn keys_stop_save_and_turn_pages() {
        let mut view = View::default();
        assert_eq!(press(&mut view, KeyCode::Char('q')), Some(Action::Stop));
        assert_eq!(press(&mut view, KeyCode::Char('s')), Some(Action::Save));
        assert_eq!(view.key(KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL)), Some(Action::Stop));
        assert_eq!(view.key(KeyEvent::new(KeyCode::Char('s'), KeyModifiers::CONTROL)), None);
        assert_eq!(view, View::default());
        let pages = [Page::Loss, Page::Samples, Page::Notes, Page::Overview];
        assert_eq!(pages.map(|_| (press(&mut view, KeyCode::Tab), view.page).1), pages);
        assert_eq!((press(&mut view, KeyCode::Left), view.page), (None, Page::Notes));
        assert_eq!((press(&mut view, KeyCode::Char('2')), view.page), (None, Page::Loss));
        assert_eq!((press(&mut view, KeyCode::Char('?')), view.has_help), (None, true));
        assert_eq!((press(&mut view, KeyCode::Esc), view.has_help), (None, false));
        assert_eq!((press(&mut view, KeyCode::Char('l')), view.is_log), (None, true));
    }
}
