//! The model card: README.md of a model folder, with what is known of how the model was made.

use crate::plan::Plan;
use crate::settings::TrainConfig;
use serde_json::Value;
use std::fmt::Write;

/// The text of README.md after `step` updates; `evaluation` is a line of the run log.
pub(crate) fn model_card(
    config: &TrainConfig,
    plan: &Plan,
    step: u64,
    num_tokens: u64,
    evaluation: Option<&Value>,
) -> String {
    let name =
        config.output_dir.file_name().map_or("model".into(), |name| name.to_string_lossy().into_owned());
    let mut card = format!(
        "---\nlibrary_name: transformers\npipeline_tag: text-generation\ntags:\n- gpt2\n- code\n- eyas\n---\n\n# {name}\n\n\
         A GPT-2 with {} parameters, trained by eyas {} to complete code. It opens in transformers:\n\n\
         ```python\nfrom transformers import pipeline\ncomplete = pipeline(\"text-generation\", model=\"path/to/{name}\")\n```\n\n\
         ## Training\n\n",
        plan.num_parameters,
        env!("CARGO_PKG_VERSION"),
    );
    // Writing to a String cannot fail.
    let mut row = |name: &str, value: String| {
        let _ = writeln!(card, "- {name}: {value}");
    };
    row("updates", format!("{step}, {num_tokens} tokens, {:.2} epochs", plan.epochs.epoch_after(step)));
    row("context_length", plan.context_length.to_string());
    let settings = config.to_json();
    for key in [
        "per_device_train_batch_size",
        "gradient_accumulation_steps",
        "optim",
        "learning_rate",
        "lr_scheduler_type",
        "warmup_steps",
        "weight_decay",
        "adam_beta1",
        "adam_beta2",
        "adam_epsilon",
        "max_grad_norm",
        "seed",
        "bf16",
        "stochastic_rounding",
    ] {
        row(key, settings[key].to_string().replace('"', ""));
    }
    // Who measures the model has to know.
    if config.mask_documents {
        row("mask_documents", "true".into());
    }
    if let Some(line) = evaluation {
        card.push_str("\n## Evaluation\n\n");
        for (name, key) in [
            ("loss", "eval_loss"),
            ("perplexity", "eval_perplexity"),
            ("bits per byte", "eval_bits_per_byte"),
            ("next-token accuracy", "eval_next_token_accuracy"),
        ] {
            let _ = writeln!(card, "- {name}: {:.4}", line[key].as_f64().unwrap_or(f64::NAN));
        }
    }
    card
}
