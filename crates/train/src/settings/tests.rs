use super::*;
use serde_json::json;

const TUTORIAL: &str = include_str!("../../../../runs/codeparrot-ds.toml");
const LEAST: &str = "output_dir = 'out'\ntrain_data = 'code'\ntokenizer = 'tok'\n";

fn pairs(overrides: &[(&str, &str)]) -> Vec<(String, String)> {
    overrides.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect()
}

fn parse(toml: &str, overrides: &[(&str, &str)]) -> Result<TrainConfig, Error> {
    TrainConfig::parse(toml, &pairs(overrides))
}

fn message(toml: &str, overrides: &[(&str, &str)]) -> String {
    let error = parse(&format!("{LEAST}{toml}"), overrides).expect_err(toml);
    assert!(error.is_usage(), "{error}");
    error.to_string()
}

#[test]
fn the_tutorials_file_is_understood_whole() {
    let config = parse(TUTORIAL, &[]).expect("the tutorial's file");
    assert_eq!(config.train_data, ["hub:huggingface-course/codeparrot-ds-train"]);
    assert_eq!((config.per_device_train_batch_size, config.gradient_accumulation_steps), (32, 8));
    assert_eq!((config.learning_rate, config.weight_decay, config.warmup_steps), (5e-4, 0.1, 1000.0));
    assert_eq!(config.lr_scheduler_type, SchedulerType::Cosine);
    assert_eq!((config.eval_strategy, config.eval_steps), (Strategy::Steps, Some(5000)));
    assert!(config.fp16 && config.push_to_hub && config.shuffle);
    assert_eq!(config.precision(), Precision::F16);
}

#[test]
fn the_command_line_replaces_the_file() {
    let arguments = [
        ("train-data", "a"),
        ("train-data", "b"),
        ("bf16", ""),
        ("max_steps", "3"),
        ("--n-layer", "2"),
        ("attn_pdrop", "0"),
    ];
    let config = parse(TUTORIAL, &arguments).expect("valid");
    assert_eq!(config.train_data, ["a", "b"]);
    assert_eq!(config.precision(), Precision::Bf16);
    assert_eq!(config.max_steps, 3);
    assert_eq!(config.model, pairs(&[("n_layer", "2"), ("attn_pdrop", "0")]));
    assert_eq!(config.to_json()["train_data"], json!(["a", "b"]));
}

#[test]
fn defaults_are_those_of_training_arguments() {
    let config = parse(LEAST, &[]).expect("valid");
    assert_eq!((config.per_device_train_batch_size, config.gradient_accumulation_steps), (8, 1));
    assert!(config.merge_micro_batches);
    assert_eq!((config.learning_rate, config.num_train_epochs, config.max_steps), (5e-5, 3.0, -1));
    assert_eq!((config.logging_steps, config.save_steps, config.save_total_limit), (500, 500, None));
    assert_eq!(config.lr_scheduler_type, SchedulerType::Linear);
    assert_eq!((config.warmup_steps, config.seed, config.eval_strategy), (0.0, 42, Strategy::No));
    assert_eq!((config.adam_beta1, config.adam_beta2, config.adam_epsilon), (0.9, 0.999, 1e-8));
    assert_eq!(
        parse(&format!("{LEAST}optim = 'adamw_torch'"), &[]).expect("valid").optim,
        OptimizerKind::AdamW
    );
}

#[test]
fn names_that_are_not_known_are_refused() {
    assert_eq!(
        message("lerning_rate = 1", &[]),
        "line 4: unknown setting `lerning_rate`; did you mean `learning_rate`?"
    );
    assert_eq!(message("\nn_layers = 2", &[]), "line 5: unknown setting `n_layers`; did you mean `n_layer`?");
    assert_eq!(
        message("", &[("warmup-step", "1")]),
        "unknown setting `warmup_step`; did you mean `warmup_steps`?"
    );
    assert!(message("xyzzy = 1", &[]).ends_with("`xyzzy`"));
    assert!(message("report_to = 'wandb'", &[]).contains("tensorboard"));
    assert!(message("[model]\nn_layer = 2", &[]).contains("no sections"));
}

#[test]
fn wrong_types_are_refused_with_their_line() {
    assert_eq!(
        message("learning_rate = 'fast'", &[]),
        "line 4: `learning_rate`: expected a number, got the text \"fast\""
    );
    assert_eq!(message("seed = 1.5", &[]), "line 4: `seed`: expected a whole number, not negative, got 1.5");
    assert_eq!(message("bf16 = 1", &[]), "line 4: `bf16`: expected true or false, got 1");
    assert_eq!(message("", &[("max-steps", "many")]), "`max_steps`: expected a whole number, got `many`");
    assert!(message("lr_scheduler_type = 'cosinus'", &[]).contains("expected linear, cosine,"));
    assert!(message("train_data = [1]", &[]).contains("duplicate key"));
    assert!(message("n_layer = 'six'", &[]).starts_with("line 4: `n_layer`: expected a whole number"));
    assert!(message("learning_rate = ", &[]).starts_with("line 4: "));
}

#[test]
fn impossible_numbers_are_refused() {
    for (toml, name) in [
        ("per_device_train_batch_size = 0", "per_device_train_batch_size"),
        ("gradient_accumulation_steps = 0", "gradient_accumulation_steps"),
        ("context_length = 0", "context_length"),
        ("learning_rate = -1", "learning_rate"),
        ("learning_rate = nan", "learning_rate"),
        ("adam_beta2 = 1.0", "adam_beta2"),
        ("warmup_ratio = 1.5", "warmup_ratio"),
        ("max_steps = 0", "max_steps"),
        ("num_train_epochs = 0", "num_train_epochs"),
        ("logging_steps = 0", "logging_steps"),
        ("save_total_limit = 0", "save_total_limit"),
        ("lr_scheduler_type = 'cosine_with_min_lr'", "min_lr"),
        ("lr_scheduler_type = 'warmup_stable_decay'", "num_decay_steps"),
        ("eval_strategy = 'steps'", "eval_data"),
        ("fp16 = true\nbf16 = true", "fp16"),
        ("per_device_train_batch_size = 99999999999", "per_device_train_batch_size"),
        ("data_weights = [1, -1]", "data_weights"),
        ("data_weights = [0, 0]", "data_weights"),
        ("data_weights = [1e308, 1e308]", "data_weights"),
        ("data_weights = ['x']", "data_weights"),
        ("data_weights = [1, 1]\nshuffle = false", "data_weights"),
    ] {
        let message = message(toml, &[]);
        assert!(message.contains(&format!("`{name}`")), "{toml}: {message}");
    }
    assert!(
        parse("train_data = 'x'", &[])
            .expect_err("no output_dir")
            .to_string()
            .contains("`output_dir` is missing")
    );
}

#[test]
fn rounding_by_chance_is_for_bf16() {
    let config = parse(LEAST, &[("bf16", ""), ("stochastic-rounding", "")]).expect("valid");
    assert!(config.stochastic_rounding && config.to_json()["stochastic_rounding"] == json!(true));
    assert!(!parse(LEAST, &[("bf16", "")]).expect("valid").stochastic_rounding, "off by default");
    assert_eq!(
        message("stochastic_rounding = true", &[]),
        "line 4: `stochastic_rounding`: expected bf16 = true beside it, or false: in f32 nothing is rounded, got true with f32"
    );
    // fp16 of the command line replaces the file's bf16.
    assert_eq!(
        message("bf16 = true\nstochastic_rounding = true", &[("fp16", "")]),
        "line 5: `stochastic_rounding`: expected bf16 = true instead of fp16, or false: only bf16 is rounded by chance, got true \
         with fp16"
    );
}

#[test]
fn the_tables_are_whole() {
    let mut names: Vec<_> = settings().map(|setting| setting.name).collect();
    names.sort_unstable();
    names.windows(2).for_each(|pair| assert_ne!(pair[0], pair[1]));
    let keys: Vec<_> = MODEL_SETTINGS.iter().map(|setting| setting.name).collect();
    assert_eq!(keys, eyas_model::Config::KEYS);
    assert!(settings().all(|setting| !setting.help.is_empty()));
    // Each default is a value of its setting.
    let _ = TrainConfig::defaults();
}
