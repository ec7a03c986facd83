//! Frames as text, on a backend that only remembers them.

use super::*;
use eyas_train::{Budget, Epochs, EvalResult, Plan, Sample, StepMetrics};
use keys::Page;
use ratatui::Terminal;
use ratatui::backend::TestBackend;

/// A run of 1,000 updates after 400 of them, as its events told it.
fn state() -> State {
    let mut state = State::new("runs/small".into());
    let plan = Plan {
        peak_flops: 1e12,
        num_checkpoints: None,
        device: "CPU, 2 threads, avx512bf16, bfloat16".into(),
        num_parameters: 5_300_000,
        num_decayed: 5_200_000,
        context_length: 256,
        num_train_tokens: 10_000_000,
        epochs: Epochs { num_samples: 39_062, batch: 8, accumulation: 2 },
        asked_batch_size: 8,
        merged: None,
        budget: Budget::Steps(1000),
        first_step: 0,
        flops_per_token: 3e7,
        memory: vec![("weights", 21 << 20), ("optimizer", 42 << 20)],
        checkpoint_bytes: 64 << 20,
        num_eval_targets: Some(100_000),
        warnings: Vec::new(),
    };
    state.event(&Event::Plan(&plan));
    for step in 1..=400 {
        state.event(&Event::MicroBatch { done: 1, of: 2 });
        state.event(&Event::Step(&metrics(step)));
        if step % 100 == 0 {
            state.event(&Event::Evaluating { done: 50_000, of: 100_000 });
            state.event(&Event::Evaluated { step, result: &result(step) });
        }
    }
    let sample = |prompt: &str, completion: &str| Sample {
        step: 400,
        prompt: prompt.into(),
        completion: completion.into(),
    };
    state.event(&Event::Sampled(&[
        sample("def main():", "\n    return parse(\x1b[2J)\n"),
        sample("import ", "numpy as np\n"),
    ]));
    state.event(&Event::Warning("the evaluation data are few"));
    state.event(&Event::Saved(Path::new("runs/small/checkpoint-400")));
    state
}

fn metrics(step: u64) -> StepMetrics {
    StepMetrics {
        step,
        epoch: step as f64 / 2442.0,
        loss: 2.5 + 7.0 / (1.0 + step as f64 / 20.0),
        learning_rate: 1e-3,
        grad_norm: 0.5,
        tokens_per_second: 12_345.0,
        num_tokens: 4096 * step,
        fraction: step as f64 / 1000.0,
        elapsed_seconds: 0.33 * step as f64,
        seconds_left: Some(570.9),
        skipped_updates: 0,
    }
}

fn result(step: u64) -> EvalResult {
    let loss = metrics(step).loss + 0.1;
    EvalResult {
        loss,
        perplexity: loss.exp(),
        bits_per_byte: 1.25,
        next_token_accuracy: 0.43,
        num_targets: 100_000,
        num_bytes: 300_000,
    }
}

/// The rows of a frame.
fn frame(state: &State, view: View, width: u16, height: u16, has_colour: bool) -> Vec<String> {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).expect("a terminal");
    let mut canvas = Canvas::new(has_colour);
    terminal.draw(|frame| canvas.draw(frame, state, view, false)).expect("a frame");
    let buffer = terminal.backend().buffer();
    let row = |y| (0..width).map(|x| buffer[(x, y)].symbol()).collect::<String>();
    (0..height).map(row).collect()
}

fn is_braille(c: char) -> bool {
    ('\u{2801}'..='\u{28ff}').contains(&c)
}

#[test]
fn a_wide_screen_shows_everything() {
    let rows = frame(&state(), View::default(), 120, 40, true);
    let text = rows.join("\n");
    for part in [
        "eyas train runs/small  training",
        "step 400 of 1,000, 40.0 %, 9 min 3", // The clock goes on.
        "12,345 tokens/s (37.0 % of peak)",
        "loss 2.833, ",
        "learning rate 1.00e-3",
        "gradient norm 0.50",
        "evaluation after 400: loss 2.9333, 1.2500 bits per byte",
        "samples after 400 updates",
        "def main():",
        "return parse(\u{fffd}[2J)",
        "import numpy as np",
        "warning: the evaluation data are few",
        "saved runs/small/checkpoint-400",
        "CPU, 2 threads",
        "5.3M parameters",
        "weights",
        "63.0 MiB",
        "q stop and save",
    ] {
        assert!(text.contains(part), "no {part:?} in\n{text}");
    }
    // The curve falls from the left to the right, below its beginning that is off the scale.
    let column = |at: usize| rows.iter().position(|row| row.chars().nth(at).is_some_and(is_braille));
    let (early, late) = (column(9), column(60));
    assert!(early.is_some() && late.is_some() && early < late, "{early:?} {late:?}\n{text}");
    assert!(text.contains('•'), "no evaluation in\n{text}");
    assert!(rows[1].starts_with(&"━".repeat(48)) && rows[1].ends_with('─'), "{}", rows[1]);
    if cfg!(target_os = "linux") {
        assert!(text.contains("resident now"), "{text}");
    }
}

#[test]
fn a_small_screen_shows_what_matters() {
    let rows = frame(&state(), View::default(), 40, 12, false);
    let text = rows.join("\n");
    for part in
        ["eyas train runs/small", "step 400 of 1,000, 40.0 %, 9 min 3", "loss 2.833", "q stop and save"]
    {
        assert!(text.contains(part), "no {part:?} in\n{text}");
    }
    assert!(text.chars().any(is_braille), "{text}");
}

#[test]
fn no_size_and_no_state_panics() {
    let empty = State::default();
    let mut odd = state();
    odd.event(&Event::Step(&StepMetrics { loss: f64::NAN, seconds_left: Some(f64::NAN), ..metrics(401) }));
    odd.event(&Event::Step(&StepMetrics {
        loss: 0.0,
        fraction: f64::NAN,
        seconds_left: Some(-1.0),
        ..metrics(402)
    }));
    odd.event(&Event::Sampled(&[]));
    odd.event(&Event::Evaluating { done: 1, of: 0 });
    odd.warn(&"word".repeat(1000));
    let states = [empty, state(), odd];
    for (width, height) in
        [(0, 0), (1, 1), (3, 2), (10, 5), (40, 12), (41, 13), (89, 9), (90, 10), (300, 100)]
    {
        for state in &states {
            for page in Page::ALL {
                for is_log in [false, true] {
                    frame(state, View { page, has_help: is_log, is_log }, width, height, !is_log);
                }
            }
        }
    }
}

#[test]
fn pages_have_what_they_are_called() {
    let page = |page| frame(&state(), View { page, ..View::default() }, 80, 24, true).join("\n");
    assert!(page(Page::Loss).chars().filter(|&c| is_braille(c)).count() > 40);
    assert!(page(Page::Samples).contains("return parse") && !page(Page::Samples).contains("checkpoint-400"));
    assert!(
        page(Page::Notes).contains("evaluation after 100 updates") && !page(Page::Notes).contains("def main")
    );
    let help = frame(&state(), View { has_help: true, ..View::default() }, 80, 24, true).join("\n");
    assert!(help.contains("stop after this micro-batch and save"), "{help}");
}

#[test]
fn what_is_kept_is_bounded_and_warnings_are_counted() {
    let mut state = State::default();
    for i in 0..1000 {
        state.event(&Event::Warning(&format!("warning {i}")));
    }
    let (warnings, others) = state.warnings();
    assert_eq!((warnings.len() + others, warnings[0].as_str()), (1000, "warning 0"));
    assert!(state.notes.len() <= 200);
    assert!(state.notes.back().is_some_and(|note| note.text == "warning 999" && note.is_warning));
}

#[test]
fn a_run_that_goes_on_has_the_curves_of_its_log() {
    let mut state = State::default();
    for line in [r#"{"step": 5, "loss": 3.0, "grad_norm": 1.0}"#, r#"{"step": 10, "eval_loss": 2.5}"#, "{}"] {
        state.history(&serde_json::from_str(line).expect("JSON"));
    }
    assert_eq!((state.loss.last(), state.eval_loss.last(), state.speed.last()), (Some(3.0), Some(2.5), None));
}
