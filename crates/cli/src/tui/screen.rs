//! A frame: what is where, at any size.
//!
//! Draws only from its arguments. What does not fit is left out, the least needed first; nothing is scrolled.

use super::charts::Points;
use super::keys::{HELP, Page, View};
use super::state::{Note, Stage, State};
use crate::format;
use crate::reporter::sample_lines;
use eyas_train::{Plan, StepMetrics};
use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span, Text};
use ratatui::widgets::{Block, Clear, Paragraph};
use std::time::{Duration, Instant};

/// From this width on there is a column at the right.
const WIDE: u16 = 90;
/// The width of that column.
const SIDE: u16 = 36;
/// Rows above the page: title, bar, three lines of numbers.
const HEAD: u16 = 5;
/// The resident size is read this often.
const RESIDENT_EVERY: Duration = Duration::from_secs(1);

/// Styles, or none where the person wants no colour.
#[derive(Clone, Copy)]
pub(super) struct Theme {
    has_colour: bool,
}

impl Theme {
    fn colour(self, colour: Color) -> Style {
        if self.has_colour { Style::new().fg(colour) } else { Style::new() }
    }

    pub(super) fn accent(self) -> Style {
        self.colour(Color::Cyan)
    }

    pub(super) fn eval(self) -> Style {
        self.colour(Color::Yellow).add_modifier(Modifier::BOLD)
    }

    pub(super) fn dim(self) -> Style {
        self.colour(Color::DarkGray)
    }

    fn warning(self) -> Style {
        self.colour(Color::Yellow)
    }

    fn bold(self) -> Style {
        Style::new().add_modifier(Modifier::BOLD)
    }
}

/// What is kept between frames.
pub(super) struct Canvas {
    theme: Theme,
    points: Points,
    resident: Option<u64>,
    read_at: Option<Instant>,
}

impl Canvas {
    pub(super) fn new(has_colour: bool) -> Self {
        Canvas { theme: Theme { has_colour }, points: Points::default(), resident: None, read_at: None }
    }

    /// Draws everything.
    pub(super) fn draw(&mut self, frame: &mut Frame<'_>, state: &State, view: View, is_stopping: bool) {
        if self.read_at.is_none_or(|at| at.elapsed() >= RESIDENT_EVERY) {
            (self.resident, self.read_at) = (resident_bytes(), Some(Instant::now()));
        }
        let [head, page, keys] =
            Layout::vertical([Constraint::Length(HEAD), Constraint::Min(0), Constraint::Length(1)])
                .areas(frame.area());
        self.head(frame, head, state, is_stopping);
        match view.page {
            Page::Overview => self.overview(frame, page, state, view),
            Page::Loss => self.loss(frame, page, state, view),
            Page::Samples => self.samples(frame, page, state),
            Page::Notes => self.notes(frame, page, state),
        }
        self.keys(frame, keys, view, is_stopping);
        if view.has_help {
            self.help(frame);
        }
    }

    fn head(&self, frame: &mut Frame<'_>, area: Rect, state: &State, is_stopping: bool) {
        let theme = self.theme;
        let stage = stage(state, is_stopping);
        let title = Line::from(vec![
            Span::styled("eyas train ", theme.bold()),
            Span::raw(state.title.as_str()),
            Span::styled(format!("  {stage}"), theme.accent()),
        ]);
        let share = match state.stage {
            Stage::Evaluating(share) => share,
            Stage::Done => 1.0,
            _ => state.share(),
        };
        let filled = (share * f64::from(area.width)) as usize;
        let bar = Line::from(vec![
            Span::styled("━".repeat(filled), theme.accent()),
            Span::styled("─".repeat((area.width as usize).saturating_sub(filled)), theme.dim()),
        ]);
        let mut lines = vec![title, bar];
        match &state.metrics {
            None => lines.push(Line::from(state.preparing.as_str())),
            Some(metrics) => {
                lines.push(Line::from(progress(state, metrics)));
                lines.push(Line::from(numbers(state, metrics)));
            }
        }
        if let Some((step, result)) = &state.evaluation {
            lines.push(Line::from(vec![
                Span::styled(format!("evaluation after {}: ", format::count(*step)), theme.eval()),
                Span::raw(format!(
                    "loss {:.4}, {:.4} bits per byte, perplexity {:.2}, next token right {}",
                    result.loss,
                    result.bits_per_byte,
                    result.perplexity,
                    format::percent(result.next_token_accuracy)
                )),
            ]));
        }
        frame.render_widget(Paragraph::new(lines), area);
    }

    fn overview(&mut self, frame: &mut Frame<'_>, area: Rect, state: &State, view: View) {
        let [main, side] = if area.width >= WIDE {
            Layout::horizontal([Constraint::Min(0), Constraint::Length(SIDE)]).areas(area)
        } else {
            [area, Rect::default()]
        };
        self.side(frame, side, state);
        // The chart has half; a screen too low for both has the chart, then the notes.
        let texts = match main.height {
            ..8 => main.height.saturating_sub(5).min(2),
            height => height / 2,
        };
        let [chart, below] = Layout::vertical([Constraint::Min(0), Constraint::Length(texts)]).areas(main);
        if chart.height >= 4 {
            self.points.loss(frame, chart, self.theme, &state.loss, &state.eval_loss, view.is_log);
        }
        let has_samples = !state.samples.is_empty() && below.height >= 8;
        let samples = if has_samples { Constraint::Fill(3) } else { Constraint::Length(0) };
        let [samples, notes] = Layout::vertical([samples, Constraint::Fill(2)]).areas(below);
        self.samples(frame, samples, state);
        self.notes(frame, notes, state);
    }

    /// The column at the right: small curves, the machine and the memory.
    fn side(&mut self, frame: &mut Frame<'_>, area: Rect, state: &State) {
        if area.is_empty() {
            return;
        }
        let facts = self.facts(state);
        let num_facts = u16::try_from(facts.height()).unwrap_or(u16::MAX).saturating_add(2);
        let charts = area.height.saturating_sub(num_facts);
        // All of the facts, unless nothing would be left of the curves.
        let charts = if charts >= 9 { charts } else { area.height.min(9) };
        let [charts, below] = Layout::vertical([Constraint::Length(charts), Constraint::Min(0)]).areas(area);
        let [first, second, third] = Layout::vertical([Constraint::Fill(1); 3]).areas(charts);
        let (points, theme) = (&mut self.points, self.theme);
        // Gradient norms have spikes of a hundred times.
        let log = |norm: f64| norm.max(1e-9).ln();
        points.small(
            frame,
            first,
            theme,
            "learning rate",
            &state.learning_rate,
            |x| x,
            |x| format!("{x:.2e}"),
        );
        points.small(frame, second, theme, "gradient norm", &state.grad_norm, log, |x| format!("{x:.2}"));
        points.small(frame, third, theme, "tokens/s", &state.speed, |x| x, format::short);
        if below.height >= 3 {
            let block = Block::bordered().title(" machine and memory ").border_style(theme.dim());
            frame.render_widget(Paragraph::new(facts).block(block), below);
        }
    }

    fn facts(&self, state: &State) -> Text<'static> {
        let resident =
            self.resident.map(|bytes| Line::from(format!("resident now        {:>11}", mebibytes(bytes))));
        let Some(plan) = &state.plan else { return resident.into_iter().collect() };
        let width = usize::from(SIDE - 2);
        let mut lines = wrapped(&plan.device, width);
        lines.push(Line::from(format!("{} parameters", format::short(plan.num_parameters as f64))));
        lines.push(Line::from(format!("{} tokens an update", format::count(plan.tokens_per_update()))));
        lines.extend(resident);
        lines.push(Line::from(format!("planned             {:>11}", mebibytes(plan.memory_bytes()))));
        for (kind, bytes) in &plan.memory {
            let text = format!("  {kind:<18}{:>11}", mebibytes(*bytes));
            lines.push(Line::styled(text, self.theme.dim()));
        }
        Text::from(lines)
    }

    fn loss(&mut self, frame: &mut Frame<'_>, area: Rect, state: &State, view: View) {
        if area.height >= 4 {
            self.points.loss(frame, area, self.theme, &state.loss, &state.eval_loss, view.is_log);
        }
    }

    /// As many samples as fit, each with as many lines as all can have.
    fn samples(&self, frame: &mut Frame<'_>, area: Rect, state: &State) {
        let title = match state.samples.first() {
            Some(first) => format!(" samples after {} updates ", format::count(first.step)),
            None => " samples ".into(),
        };
        let block = Block::bordered().title(title).border_style(self.theme.dim());
        let inside = block.inner(area);
        if inside.is_empty() {
            return;
        }
        let mut lines = Vec::new();
        if state.samples.is_empty() {
            lines.push(Line::styled("none yet: prompts are set by sample_prompts", self.theme.dim()));
        }
        let (rows, columns) = (usize::from(inside.height), usize::from(inside.width));
        let each = (rows / state.samples.len().max(1)).max(2) - 1;
        for sample in &state.samples {
            for [prompt, completion] in sample_lines(sample, each, columns) {
                lines.push(Line::from(vec![Span::styled(prompt, self.theme.dim()), Span::raw(completion)]));
            }
            lines.push(Line::default());
        }
        frame.render_widget(Paragraph::new(lines).block(block), area);
    }

    /// The last notes, the newest at the bottom.
    fn notes(&self, frame: &mut Frame<'_>, area: Rect, state: &State) {
        let block = Block::bordered().title(" notes ").border_style(self.theme.dim());
        let has_frame = area.height >= 4;
        let inside = if has_frame { block.inner(area) } else { area };
        if inside.is_empty() {
            return;
        }
        let (rows, columns) = (usize::from(inside.height), usize::from(inside.width));
        let mut lines: Vec<Line<'_>> = Vec::new();
        for note in state.notes.iter().rev() {
            let mut note = self.note(note, columns);
            if lines.is_empty() {
                // Of the newest one the beginning says more.
                note.truncate(rows);
            }
            lines.extend(note.into_iter().rev());
            if lines.len() >= rows {
                break;
            }
        }
        lines.truncate(rows);
        lines.reverse();
        if has_frame {
            frame.render_widget(block, area);
        }
        frame.render_widget(Paragraph::new(lines), inside);
    }

    fn note(&self, note: &Note, columns: usize) -> Vec<Line<'static>> {
        let mark = if note.is_warning { "warning: " } else { "" };
        let style = if note.is_warning { self.theme.warning() } else { Style::new() };
        wrapped(&format!("{mark}{}", note.text), columns).into_iter().map(|line| line.style(style)).collect()
    }

    fn keys(&self, frame: &mut Frame<'_>, area: Rect, view: View, is_stopping: bool) {
        let stop = if is_stopping { "end at once" } else { "stop and save" };
        let mut spans = Vec::new();
        for (key, what) in [("q", stop), ("s", "save now"), ("?", "help"), ("l", "log"), ("Tab", "")] {
            spans.push(Span::styled(key, self.theme.bold()));
            let gap = if what.is_empty() { "" } else { "  " };
            spans.push(Span::styled(format!(" {what}{gap}"), self.theme.dim()));
        }
        for page in Page::ALL {
            let style = if page == view.page { self.theme.bold() } else { self.theme.dim() };
            spans.push(Span::styled(format!("{} ", page.name()), style));
        }
        frame.render_widget(Line::from(spans), area);
    }

    fn help(&self, frame: &mut Frame<'_>) {
        let area = frame.area();
        let height = u16::try_from(HELP.len() + 2).unwrap_or(u16::MAX).min(area.height);
        let width = 58.min(area.width);
        let area = Rect {
            x: area.x + (area.width - width) / 2,
            y: area.y + (area.height - height) / 2,
            width,
            height,
        };
        let line = |&(key, what): &(&'static str, &'static str)| {
            Line::from(vec![Span::styled(format!("{key:<18}"), self.theme.bold()), Span::raw(what)])
        };
        let block = Block::bordered().title(" keys ");
        frame.render_widget(Clear, area);
        frame.render_widget(Paragraph::new(HELP.iter().map(line).collect::<Vec<_>>()).block(block), area);
    }
}

/// What is going on, in a word or two.
fn stage(state: &State, is_stopping: bool) -> String {
    let saving = state.saving.map(|step| format!(", saving after {}", format::count(step)));
    let stage = match &state.stage {
        _ if is_stopping => "stopping".into(),
        Stage::Preparing => "preparing".into(),
        Stage::Training => match state.micro_batch {
            Some((done, of)) => format!("training, micro-batch {done} of {of}"),
            None => "training".into(),
        },
        Stage::Evaluating(share) => format!("evaluating, {}", format::percent(*share)),
        Stage::Done => "done".into(),
    };
    stage + saving.as_deref().unwrap_or_default()
}

/// `step 1,234 of 5,000, 24.7 %, 9 min 30 s left, epoch 0.25, 5.1M tokens in 3 min 07 s`.
fn progress(state: &State, metrics: &StepMetrics) -> String {
    let of = state.plan.as_ref().and_then(Plan::num_steps);
    let of = of.map_or_else(String::new, |steps| format!(" of {}", format::count(steps)));
    let left = state.left().map_or_else(String::new, |left| format!(", {} left", format::duration(left)));
    let elapsed = Duration::try_from_secs_f64(metrics.elapsed_seconds).unwrap_or_default();
    format!(
        "step {}{of}, {}{left}, epoch {:.2}, {} tokens in {}",
        format::count(metrics.step),
        format::percent(state.share()),
        metrics.epoch,
        format::short(metrics.num_tokens as f64),
        format::duration(elapsed)
    )
}

/// `loss 3.214, 5,120 tokens/s (61.0 % of peak), learning rate 9.80e-4, gradient norm 0.53`.
fn numbers(state: &State, metrics: &StepMetrics) -> String {
    let flops = state.plan.as_ref().map_or(0.0, |plan| plan.flops_per_token);
    let share = metrics.tokens_per_second * flops / state.peak_flops;
    let skipped = match metrics.skipped_updates {
        0 => String::new(),
        skipped => format!(", {} updates skipped", format::count(skipped)),
    };
    format!(
        "loss {:.3}, {} tokens/s ({} of peak), learning rate {:.2e}, gradient norm {:.2}{skipped}",
        metrics.loss,
        format::count(metrics.tokens_per_second as u64),
        format::percent(share),
        metrics.learning_rate,
        metrics.grad_norm
    )
}

/// Lines of at most `columns` characters, cut between words where that is possible.
fn wrapped(text: &str, columns: usize) -> Vec<Line<'static>> {
    let columns = columns.max(1);
    let mut lines = vec![String::new()];
    let mut width = 0;
    for word in text.split_whitespace() {
        let mut rest: Vec<char> = word.chars().collect();
        let gap = usize::from(width > 0);
        if width + gap + rest.len() > columns && width > 0 {
            lines.push(String::new());
            width = 0;
        }
        while !rest.is_empty() {
            let gap = usize::from(width > 0);
            let fits = rest.len().min(columns - width - gap);
            if let Some(line) = lines.last_mut() {
                line.extend(std::iter::repeat_n(' ', gap));
                line.extend(rest.drain(..fits));
            }
            width += gap + fits;
            if !rest.is_empty() {
                lines.push(String::new());
                width = 0;
            }
        }
    }
    lines.into_iter().map(Line::from).collect()
}

fn mebibytes(bytes: u64) -> String {
    format!("{:.1} MiB", bytes as f64 / 1_048_576.0)
}

/// What the process has in memory, where the system says so.
fn resident_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    Some(1024 * line.split_whitespace().next()?.parse::<u64>().ok()?)
}
