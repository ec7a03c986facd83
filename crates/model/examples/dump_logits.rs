//! Writes the logits of a model folder for given token ids, to be held beside another implementation's:
//!
//!     dump_logits MODEL_DIR OUT.safetensors ID...
//!
//! OUT holds `input_ids` (i32, 1 x T) and `logits` (f32, 1 x T x V).

use eyas_model::{Activations, Gpt, Use};
use eyas_ops::Cpu;
use safetensors::tensor::{Dtype, TensorView, serialize};
use std::error::Error;
use std::path::Path;
use std::sync::Arc;

fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [dir, out, ids @ ..] = args.as_slice() else {
        return Err("usage: dump_logits MODEL_DIR OUT.safetensors ID...".into());
    };
    let ids = ids.iter().map(|id| id.parse()).collect::<Result<Vec<u32>, _>>()?;
    let gpt = Gpt::load(Arc::new(Cpu::<f32>::new()), Path::new(dir), Use::Inference)?;
    let (vocab_size, positions) = (gpt.config().vocab_size, gpt.config().n_positions);
    if ids.is_empty() || ids.len() > positions || ids.iter().any(|&id| id as usize >= vocab_size) {
        return Err(format!("expected 1 to {positions} ids below {vocab_size}").into());
    }
    let mut acts = Activations::new(&gpt, 1, ids.len());
    gpt.forward(&mut acts, &ids, ids.len(), None);
    let logits = gpt.logits(&acts);
    let tensors = [
        ("input_ids", TensorView::new(Dtype::I32, vec![1, ids.len()], bytemuck::cast_slice(&ids))?),
        (
            "logits",
            TensorView::new(Dtype::F32, vec![1, ids.len(), vocab_size], bytemuck::cast_slice(&logits))?,
        ),
    ];
    std::fs::write(out, serialize(tensors, None)?)?;
    Ok(())
}
