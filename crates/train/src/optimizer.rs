//! The optimizers: what is kept of the gradients of the past, and how a parameter moves.
//!
//! Owns the rule of each parameter, and gradient clipping. Refuses to apply an update whose gradient is not finite. The one
//! trick: a rule belongs to a parameter, not to the run, so that Muon for matrices and AdamW for the rest are one
//! optimizer, and another rule is one more variant of [`Rule`]; the trainer does not know which there are.

use crate::error::Error;
use crate::settings::{OptimizerKind, TrainConfig};
use crate::step::key_of;
use eyas_model::{Block, Declaration, Gpt, Gradients, Parameters, TensorFile, TensorOut, write_tensors};
use eyas_ops::{AdamWStep, AdamWTensor, Backend, Buf, Buffer, Device, MuonDims, MuonStep, Rounding};
use std::path::Path;
use std::sync::Arc;

/// The constants of an optimizer: what stays the same from update to update.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Hyper {
    /// AdamW's betas.
    pub betas: (f64, f64),
    /// AdamW's epsilon.
    pub epsilon: f64,
    /// Decoupled weight decay, of parameters that decay.
    pub weight_decay: f64,
    /// Gradient norm above which the gradient is scaled down; 0: never.
    pub max_grad_norm: f64,
    /// Muon's momentum.
    pub momentum: f64,
    /// Muon's learning rate as a multiple of AdamW's.
    pub muon_rate: f64,
    /// Seed of the stochastic rounding of compute copies; `None`: they are rounded to nearest.
    pub rounding_seed: Option<u64>,
}

impl Default for Hyper {
    /// TrainingArguments' defaults, and Muon's usual momentum.
    fn default() -> Self {
        Hyper {
            betas: (0.9, 0.999),
            epsilon: 1e-8,
            weight_decay: 0.0,
            max_grad_norm: 1.0,
            momentum: 0.95,
            muon_rate: 1.0,
            rounding_seed: None,
        }
    }
}

impl Hyper {
    /// The constants of a run.
    pub fn new(config: &TrainConfig) -> Self {
        let rate = |rate: f64| if config.learning_rate > 0.0 { rate / config.learning_rate } else { 1.0 };
        Hyper {
            betas: (config.adam_beta1, config.adam_beta2),
            epsilon: config.adam_epsilon,
            weight_decay: config.weight_decay,
            max_grad_norm: config.max_grad_norm,
            momentum: config.muon_momentum,
            muon_rate: config.muon_learning_rate.map_or(1.0, rate),
            rounding_seed: config.stochastic_rounding.then_some(config.seed),
        }
    }
}

/// A gradient whose norm is not finite: nothing was updated.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("the gradient norm is {0}: nothing was updated")]
pub struct NotFinite(pub f64);

/// What a parameter moves by, with its state.
enum Rule<D: Device> {
    AdamW { m: Buf<D, f32>, v: Buf<D, f32> },
    Muon { momentum: Buf<D, f32>, dims: MuonDims },
}

/// A parameter's name and shape, whether it decays, and its rule.
struct State<D: Device> {
    declaration: Declaration,
    rule: Rule<D>,
}

/// An optimizer over all parameters of a network.
pub struct Optimizer<D: Device> {
    device: Arc<D>,
    states: Parameters<State<D>>,
    hyper: Hyper,
    num_updates: u64,
}

impl<D: Backend> Optimizer<D> {
    /// An optimizer that has seen no gradient.
    pub fn new(gpt: &Gpt<D>, kind: OptimizerKind, hyper: Hyper) -> Self {
        let device = gpt.device().clone();
        let declarations = gpt.declarations();
        let zeros = |declared: &Declaration| device.zeros::<f32>(declared.len());
        let mut states = declarations.map(|declared| State {
            declaration: declared.clone(),
            rule: Rule::AdamW { m: device.zeros(0), v: device.zeros(0) },
        });
        if kind == OptimizerKind::Muon {
            states.blocks.iter_mut().for_each(|block| give_muon(block, &device));
        }
        for state in states.iter_mut() {
            if let Rule::AdamW { m, v } = &mut state.rule {
                (*m, *v) = (zeros(&state.declaration), zeros(&state.declaration));
            }
        }
        Optimizer { device, states, hyper, num_updates: 0 }
    }

    /// Its constants.
    pub fn hyper(&self) -> &Hyper {
        &self.hyper
    }

    /// Updates applied so far.
    pub fn num_updates(&self) -> u64 {
        self.num_updates
    }

    /// How the last update rounded the compute copies of matrices. Before the first they are of the nearest numbers.
    pub fn rounding(&self) -> Rounding {
        /// Keeps the key apart from the updates' dropout: there are not so many updates.
        const ROUNDING: u64 = u64::MAX;
        match (self.hyper.rounding_seed, self.num_updates) {
            (None, _) | (_, 0) => Rounding::Nearest,
            (Some(seed), update) => Rounding::Stochastic { key: key_of(key_of(seed, ROUNDING), update) },
        }
    }

    /// Makes the compute copies of `gpt` as the last update made them, which is left to do when its weights and this state have
    /// been read from a checkpoint.
    pub fn make_copies(&self, gpt: &mut Gpt<D>) {
        let rounding = self.rounding();
        if rounding != Rounding::Nearest {
            gpt.update_rounded(rounding, |_, _| ());
        }
    }

    /// Bytes of its state.
    pub fn state_bytes(&self) -> usize {
        let bytes = |state: &State<D>| match &state.rule {
            Rule::AdamW { m, v } => 4 * (m.len() + v.len()),
            Rule::Muon { momentum, .. } => 4 * momentum.len(),
        };
        self.states.iter().map(bytes).sum()
    }

    /// Clips `grads` by their norm over all parameters, moves every weight of `gpt`, and makes its compute copies again.
    /// Returns the norm before clipping.
    ///
    /// Clipping multiplies by max_grad_norm / (norm + 1e-6) where that is below 1, as PyTorch's clip_grad_norm_ does.
    ///
    /// # Errors
    /// [`NotFinite`] if the norm is not finite: then nothing has changed.
    pub fn update(
        &mut self,
        gpt: &mut Gpt<D>,
        grads: &Gradients<D>,
        learning_rate: f64,
    ) -> Result<f64, NotFinite> {
        let norm = grads.norm();
        if !norm.is_finite() {
            return Err(NotFinite(norm));
        }
        let scale = match self.hyper.max_grad_norm {
            0.0 => 1.0,
            max => (max / (norm + 1e-6)).min(1.0),
        } / grads.loss_scale;
        self.num_updates += 1;
        let rounding = self.rounding();
        let (states, hyper, step) = (&mut self.states, self.hyper, self.num_updates);
        let adamw = AdamWStep {
            learning_rate: learning_rate as f32,
            beta1: hyper.betas.0 as f32,
            beta2: hyper.betas.1 as f32,
            epsilon: hyper.epsilon as f32,
            step,
            grad_scale: scale as f32,
        };
        let muon = MuonStep {
            learning_rate: (learning_rate * hyper.muon_rate) as f32,
            momentum: hyper.momentum as f32,
            weight_decay: hyper.weight_decay as f32,
            grad_scale: scale as f32,
        };
        gpt.update_rounded(rounding, |device, weights| {
            let mut tensors = Vec::new();
            for ((value, state), grad) in weights.iter_mut().zip(states.iter_mut()).zip(grads.table.iter()) {
                let weight_decay = if state.declaration.decay { hyper.weight_decay as f32 } else { 0.0 };
                match &mut state.rule {
                    Rule::AdamW { m, v } => tensors.push(AdamWTensor { value, m, v, grad, weight_decay }),
                    Rule::Muon { momentum, dims } => {
                        device.muon(value, momentum, grad, MuonStep { weight_decay, ..muon }, *dims);
                    }
                }
            }
            device.adamw(&mut tensors, adamw);
        });
        Ok(norm)
    }

    /// Whether every number of its state is finite.
    pub fn is_finite(&self) -> bool {
        let buffers = self.states.iter().flat_map(|state| state.rule.buffers()).map(|(_, buffer)| buffer);
        self.device.sum_of_squares(&buffers.collect::<Vec<_>>()).is_finite()
    }

    /// Its state: AdamW's moments as `<parameter>.exp_avg` and `<parameter>.exp_avg_sq`, Muon's momentum as
    /// `<parameter>.momentum_buffer`, the names PyTorch gives them.
    pub fn tensors(&self) -> Vec<TensorOut<'_>> {
        let device = &self.device;
        let tensors = self.states.iter().flat_map(|state| {
            let declared = &state.declaration;
            state.rule.buffers().into_iter().map(move |(name, buffer)| TensorOut {
                name: format!("{}.{name}", declared.name),
                shape: declared.shape.clone(),
                read: Box::new(move |values| device.read(values, buffer)),
            })
        });
        tensors.collect()
    }

    /// What is written beside [`tensors`](Self::tensors), as metadata: `step`, the updates applied.
    pub fn metadata(&self) -> [(&'static str, String); 2] {
        [("format", "pt".into()), ("step", self.num_updates.to_string())]
    }

    /// Writes its state to `path`.
    ///
    /// # Errors
    /// The operating system's.
    pub fn save(&self, path: &Path) -> Result<(), Error> {
        Ok(write_tensors(path, &self.metadata(), self.tensors())?)
    }

    /// Reads the state that [`save`](Self::save) wrote. [`make_copies`](Self::make_copies) is what comes then.
    ///
    /// # Errors
    /// A file that is damaged, or of another model or optimizer.
    pub fn load(&mut self, path: &Path) -> Result<(), Error> {
        let mut file = TensorFile::open(path)?;
        let step = file.metadata("step").and_then(|step| step.parse().ok());
        let step = step.ok_or_else(|| Error::checkpoint(path, "its metadata lack `step`"))?;
        let device = &self.device;
        for state in self.states.iter_mut() {
            let declared = &state.declaration;
            for (name, buffer) in state.rule.buffers_mut() {
                device.write(buffer, &file.read(&format!("{}.{name}", declared.name), &declared.shape)?);
            }
        }
        self.num_updates = step;
        Ok(())
    }
}

/// Gives Muon the matrices of a block. c_attn is three of them, side by side: queries, keys and values.
fn give_muon<D: Backend>(block: &mut Block<State<D>>, device: &Arc<D>) {
    let matrices = [
        (&mut block.attn.c_attn.weight, 3),
        (&mut block.attn.c_proj.weight, 1),
        (&mut block.mlp.c_fc.weight, 1),
        (&mut block.mlp.c_proj.weight, 1),
    ];
    for (state, pieces) in matrices {
        let shape = &state.declaration.shape;
        let dims = MuonDims { rows: shape[0], cols: shape[1], pieces };
        state.rule = Rule::Muon { momentum: device.zeros(state.declaration.len()), dims };
    }
}

impl<D: Device> Rule<D> {
    fn buffers(&self) -> Vec<(&'static str, &Buf<D, f32>)> {
        match self {
            Rule::AdamW { m, v } => vec![("exp_avg", m), ("exp_avg_sq", v)],
            Rule::Muon { momentum, .. } => vec![("momentum_buffer", momentum)],
        }
    }

    fn buffers_mut(&mut self) -> Vec<(&'static str, &mut Buf<D, f32>)> {
        match self {
            Rule::AdamW { m, v } => vec![("exp_avg", m), ("exp_avg_sq", v)],
            Rule::Muon { momentum, .. } => vec![("momentum_buffer", momentum)],
        }
    }
}
