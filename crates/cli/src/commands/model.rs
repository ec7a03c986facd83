//! `eyas model show`.

use crate::errors::{Failure, Outcome};
use crate::format;
use crate::output::Output;
use eyas_model::{Config, module_tree, num_decayed, num_parameters};
use serde_json::json;
use std::path::Path;

/// Look at models
#[derive(clap::Subcommand)]
pub(crate) enum Command {
    Show(ShowArgs),
}

/// Print the module tree of a shape as transformers prints it, then the number of parameters
#[derive(clap::Args)]
#[command(after_long_help = "\
Examples:
  eyas model show --config gpt2 --vocab-size 50000
  eyas model show --config runs/quickstart
  eyas model show --set n_layer=6 --set n_embd=384 --set n_head=6 --json")]
pub(crate) struct ShowArgs {
    /// A built-in shape (gpt2, gpt2-medium, gpt2-large, gpt2-xl, distilgpt2), a model folder, or a config.json
    #[arg(long, value_name = "NAME|DIR|FILE", default_value = "gpt2")]
    config: String,

    /// V: the number of token ids, instead of the shape's
    #[arg(long, value_name = "N")]
    vocab_size: Option<usize>,

    /// Any key of GPT2Config: n_layer, n_embd, n_head, n_positions, resid_pdrop, ...; may be repeated
    #[arg(long = "set", value_name = "KEY=VALUE")]
    set: Vec<String>,

    /// One JSON object: num_parameters, num_decayed, tensors with name, shape and decay
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(command: Command) -> Outcome {
    match command {
        Command::Show(args) => show(&args),
    }
}

fn show(args: &ShowArgs) -> Outcome {
    let mut config = shape(&args.config)?;
    if let Some(vocab_size) = args.vocab_size {
        config.vocab_size = vocab_size;
    }
    for pair in &args.set {
        let (key, value) = pair.split_once('=').ok_or_else(|| {
            Failure::usage(format!("--set {pair}: expected KEY=VALUE")).hint("for example --set n_layer=6")
        })?;
        config.set(key.trim(), value.trim())?;
    }
    config.validate()?;
    let mut output = Output::new();
    let total = num_parameters(&config) as u64;
    if args.json {
        let table = config.parameters();
        let tensors: Vec<_> =
            table.iter().map(|d| json!({ "name": d.name, "shape": d.shape, "decay": d.decay })).collect();
        let decayed = num_decayed(&config);
        output.json(&json!({ "num_parameters": total, "num_decayed": decayed, "tensors": tensors }))?;
    } else {
        output.bytes(module_tree(&config).as_bytes())?;
        output.line(format_args!("{} parameters ({})", format::short(total as f64), format::count(total)))?;
    }
    output.flush()
}

/// A built-in shape, or that of a folder or a file.
fn shape(name: &str) -> Outcome<Config> {
    if let Some(config) = Config::builtin(name) {
        return Ok(config);
    }
    if let Some(id) = name.strip_prefix("hub:") {
        return Err(Failure::usage(format!("{id} is on the Hugging Face hub, which eyas cannot read yet"))
            .hint("download it and give the folder, or take a built-in shape such as gpt2"));
    }
    let path = Path::new(name);
    if !path.exists() {
        let near = eyas_model::nearest(name, Config::BUILTIN).map(|near| format!("did you mean `{near}`? "));
        return Err(Failure::usage(format!(
            "--config {name}: no built-in shape, file or folder of that name"
        ))
        .hint(format!("{}built in are {}", near.unwrap_or_default(), Config::BUILTIN.join(", "))));
    }
    Ok(Config::load(path)?)
}
