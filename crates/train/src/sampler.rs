//! What the network makes of a few prompts at each evaluation: greedy, so that the same weights say the same.

use crate::error::Error;
use crate::event::Sample;
use crate::settings::TrainConfig;
use eyas_model::{Config, Gpt, Sampling, generate};
use eyas_ops::Backend;
use eyas_token::Tokenizer;
use std::ops::ControlFlow;

/// The prompts of `sample_prompts`, ready to be continued.
pub(crate) struct Sampler {
    /// Text and tokens.
    prompts: Vec<(String, Vec<u32>)>,
    sampling: Sampling,
}

impl Sampler {
    /// Encodes the prompts.
    ///
    /// # Errors
    /// A prompt that is empty, or that leaves no room for a token after it.
    pub(crate) fn new(config: &TrainConfig, model: &Config, tokenizer: &Tokenizer) -> Result<Self, Error> {
        let refuse = |expected: String, got: String| {
            Err(Error::Setting { name: "sample_prompts".into(), line: None, expected, got })
        };
        let mut prompts = Vec::new();
        for prompt in &config.sample_prompts {
            let mut ids = Vec::new();
            tokenizer.encode_ordinary(prompt, &mut ids)?;
            if ids.is_empty() {
                return refuse("text".into(), "an empty prompt".into());
            }
            if ids.len() >= model.n_positions {
                let most = model.n_positions - 1;
                return refuse(format!("prompts of at most {most} tokens"), format!("one of {}", ids.len()));
            }
            prompts.push((prompt.clone(), ids));
        }
        let sampling = Sampling {
            max_new_tokens: config.sample_max_new_tokens,
            eos_token_ids: tokenizer.end_of_text().into_iter().collect(),
            ..Sampling::default()
        };
        Ok(Sampler { prompts, sampling })
    }

    /// Continues every prompt, with nothing where logits are not finite. `None` if `go_on`, which is asked after each token,
    /// breaks.
    ///
    /// # Errors
    /// Those of generation.
    pub(crate) fn samples<D: Backend>(
        &self,
        gpt: &Gpt<D>,
        tokenizer: &Tokenizer,
        step: u64,
        go_on: &mut dyn FnMut() -> ControlFlow<()>,
    ) -> Result<Option<Vec<Sample>>, Error> {
        let mut samples = Vec::new();
        for (prompt, ids) in &self.prompts {
            let mut stopped = false;
            let generated = generate(gpt, ids, &self.sampling, 1, &mut |_, _| {
                let flow = go_on();
                stopped = flow.is_break();
                flow
            });
            if stopped {
                return Ok(None);
            }
            let completion = match generated {
                Ok(generated) => tokenizer.decode_lossy(&generated[0].ids, true),
                // Training finds out by itself whether the weights are broken; a sample is no reason to end it.
                Err(eyas_model::Error::Logits { .. }) => String::new(),
                Err(error) => return Err(error.into()),
            };
            samples.push(Sample { step, prompt: prompt.clone(), completion });
        }
        Ok(Some(samples))
    }
}
