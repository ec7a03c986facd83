//! GPT-2, forward and backward: the whole of the network in one file.
//!
//! Read `forward`, then `block_forward`; under each stands its backward pass, the same steps in reverse. There is no
//! automatic differentiation: a gradient is called `d` + the name of what it is the gradient of, and each backward step
//! takes what its forward step gave and saved.
//!
//! The residual stream x (B, T, C) runs from the embeddings to the head; each block adds to it twice:
//!
//! ```text
//! x = D(wte[tokens] + wpe[positions])
//! x = x + D(c_proj(attention(c_attn(ln_1(x)))))         D: dropout
//! x = x + D(c_proj(gelu(c_fc(ln_2(x)))))
//! logits = ln_f(x) wte^T
//! ```
//!
//! Because x is only added to, its gradient is one buffer that runs backward through the blocks, and is only added to.
//!
//! Where several documents share a row, attention can be kept within each: see [`Gpt::set_document_end`].
//!
//! With gradient checkpointing forward leaves x before every block, and backward has a block save what it did again.

use crate::activations::{ActivationGradients, Activations, Around, BlockActivations, Dims, Gradients};
use crate::documents::document_starts;
use crate::model::Gpt;
use crate::parameters::{Block, Parameters};
use eyas_ops::{Act, Backend, Buf, Changing, Dropout, IGNORE, LinearDims};

/// What an evaluation says of each token.
#[derive(Clone, Copy, Debug)]
pub struct Scores<'a> {
    /// The loss of each target, in nats; 0 where there is none. (B, T)
    pub losses: &'a [f32],
    /// The most likely token at each position. (B, T)
    pub predictions: &'a [u32],
}

/// A place in the network where dropout acts.
#[derive(Clone, Copy)]
enum Site {
    Embedding,
    Attention(usize),
    AttentionProjection(usize),
    MlpProjection(usize),
}

impl<D: Backend> Gpt<D> {
    /// Runs the network up to the last LayerNorm on `inputs`, rows of `time` tokens, and saves what backward needs.
    ///
    /// `dropout_key` names the masks of the four dropouts: one number for each micro-batch of a run; `None` turns dropout
    /// off. Panics if a token id is not below the vocabulary size, or the tokens do not fit `acts` or the positions: data
    /// are checked when they are read.
    pub fn forward(&self, acts: &mut Activations<D>, inputs: &[u32], time: usize, dropout_key: Option<u64>) {
        let dims = self.begin(acts, inputs, time, dropout_key);
        acts.has_starts = self.document_end.is_some();
        if let Some(end) = self.document_end {
            let starts = &mut acts.host_starts[..inputs.len()];
            document_starts(starts, inputs, time, end);
            self.device().write(&mut acts.starts, starts);
        }
        let which = usize::from(dropout_key.is_some());
        let mut recording = std::mem::take(&mut acts.recordings[which]);
        let signature = self.signature(dims, acts.has_starts, dropout_key, 0);
        let changing = Changing { dropout_key, ..Changing::default() };
        self.device().replay(&mut recording, signature, changing, || self.queue_forward(acts, dims, dropout_key));
        acts.recordings[which] = recording;
    }

    fn queue_forward(&self, acts: &mut Activations<D>, dims: Dims, dropout_key: Option<u64>) {
        let (device, weights) = (&**self.device(), &self.weights);
        let dropout = self.dropout(Site::Embedding, dropout_key);
        device.embedding_forward(
            &mut acts.stream[0], &acts.tokens, &weights.wte, &weights.wpe, dropout, dims.embedding,
        );
        for layer in 0..self.config().n_layer {
            let Around { x, out, saved, act, starts } = acts.around(layer);
            let attend = self.attend(layer, starts, dropout_key, dims);
            self.block_forward(layer, out, saved, act, x, dropout_key, dims, attend);
        }
        self.ln_f_forward(acts, dims);
    }

    /// Runs the head on what [`forward`](Self::forward) left, then everything backward.
    ///
    /// `targets` (B, T) are the tokens to predict, [`IGNORE`] where there is none; `weights` (B, T) are the derivatives of
    /// what is minimized with respect to each token's loss: 1/N for the mean over N targets. Adds to `grads`; the losses
    /// stay on the device, see [`losses`](Self::losses). Panics if the network was not made for training; with gradient
    /// checkpointing also if it is the second backward pass after one forward pass.
    pub fn backward(
        &self,
        acts: &mut Activations<D>,
        grads: &mut Gradients<D>,
        targets: &[u32],
        weights: &[f32],
    ) {
        let (dims, dropout_key) = self.begin_head(acts, targets);
        assert_eq!(weights.len(), targets.len(), "one weight for each target");
        let is_whole = std::mem::take(&mut acts.is_fresh) || acts.blocks.len() == self.config().n_layer;
        assert!(is_whole, "what forward left was used up by a backward pass");
        self.device().write(&mut acts.loss_weights, weights);
        let mut recording = std::mem::take(&mut acts.recordings[2]);
        let signature = self.signature(dims, acts.has_starts, dropout_key, grads.identity);
        let changing = Changing { dropout_key, ..Changing::default() };
        self.device().replay(&mut recording, signature, changing, || {
            self.queue_backward(acts, &mut grads.table, dims, dropout_key);
        });
        acts.recordings[2] = recording;
    }

    fn queue_backward(
        &self,
        acts: &mut Activations<D>,
        grads: &mut Parameters<Buf<D, f32>>,
        dims: Dims,
        dropout_key: Option<u64>,
    ) {
        let device = &**self.device();
        let d = acts.gradients.as_mut().expect("activations were allocated for training");

        device.loss_backward(
            &mut acts.losses, &mut d.dnorm, &mut grads.wte,
            &acts.ln_f.out, &self.matrices.head, &acts.targets, &acts.loss_weights, dims.head,
        );
        device.clear(&mut d.dstream);
        // Whether the bias of the layer that the stream's gradient comes to next has its gradient, from what made that.
        let last = self.config().n_layer - 1;
        let of_last = self.undropped(Site::MlpProjection(last), dropout_key, &mut grads.blocks[last].mlp.c_proj.bias);
        let mut has_bias = device.layernorm_backward(
            &mut d.dstream, of_last, &mut grads.ln_f.weight, &mut grads.ln_f.bias,
            &d.dnorm, &acts.ln_f.mean, &acts.ln_f.rstd, &acts.stream[self.config().n_layer],
            &self.weights.ln_f.weight, dims.norm,
        );
        let num_saved = acts.blocks.len();
        let starts = acts.has_starts.then_some(&acts.starts);
        for layer in (0..self.config().n_layer).rev() {
            let num_acts = acts.act.len();
            let (x, saved, act) = (&acts.stream[layer], &mut acts.blocks[layer % num_saved], &mut acts.act[layer % num_acts]);
            // Where blocks take turns, what is there is the last one's.
            if num_saved == 1 && layer < last {
                self.block_inside(layer, saved, act, x, dropout_key, dims, self.attend(layer, starts, dropout_key, dims));
            }
            let (below, block) = grads.blocks.split_at_mut(layer);
            let of_below = below.last_mut().and_then(|below| {
                self.undropped(Site::MlpProjection(layer - 1), dropout_key, &mut below.mlp.c_proj.bias)
            });
            has_bias = self.block_backward(
                layer, d, &mut block[0], has_bias, of_below, saved, act, x, starts, dropout_key, dims,
            );
        }
        let dropout = self.dropout(Site::Embedding, dropout_key);
        device.embedding_backward(
            &mut grads.wte, &mut grads.wpe, &d.dstream, &acts.tokens, dropout, dims.embedding,
        );
    }

    /// The loss of each token of the last [`backward`](Self::backward), in nats, (B, T). Waits for the device. Panics if
    /// there was none.
    pub fn losses<'a>(&self, acts: &'a mut Activations<D>) -> &'a [f32] {
        let (dims, _) = acts.last_step();
        let losses = &mut acts.host_losses[..dims.rows()];
        self.device().read(losses, &acts.losses);
        losses
    }

    /// Runs the network without dropout and scores `targets` (B, T), [`IGNORE`] where there is none.
    pub fn evaluate<'a>(
        &self,
        acts: &'a mut Activations<D>,
        inputs: &[u32],
        targets: &[u32],
        time: usize,
    ) -> Scores<'a> {
        self.forward(acts, inputs, time, None);
        let device = &**self.device();
        let (dims, _) = self.begin_head(acts, targets);
        device.loss_forward(
            &mut acts.losses, &mut acts.predictions,
            &acts.ln_f.out, &self.matrices.head, &acts.targets, dims.head,
        );
        device.read(&mut acts.host_losses[..targets.len()], &acts.losses);
        device.read(&mut acts.host_predictions[..targets.len()], &acts.predictions);
        Scores { losses: &acts.host_losses[..targets.len()], predictions: &acts.host_predictions[..targets.len()] }
    }

    /// All logits (B, T, V) of what [`forward`](Self::forward) left: for inspection, since it allocates them whole.
    pub fn logits(&self, acts: &Activations<D>) -> Vec<f32> {
        let (dims, _) = acts.last_step();
        let mut logits = self.device().zeros::<f32>(dims.rows() * dims.head.vocab_size);
        self.device().logits(&mut logits, &acts.ln_f.out, &self.matrices.head, dims.head);
        let mut host = vec![0.0; dims.rows() * dims.head.vocab_size];
        self.device().read(&mut host, &logits);
        host
    }

    /// One block: `out` = x + attention's branch + the MLP's branch. `attend` sets (atty, lse) from qkv: the whole causal
    /// square in training, the new tokens over a cache in generation.
    pub(crate) fn block_forward(
        &self,
        layer: usize,
        out: &mut Act<D>,
        saved: &mut BlockActivations<D>,
        act: &mut Act<D>,
        x: &Act<D>,
        dropout_key: Option<u64>,
        dims: Dims,
        attend: impl FnOnce(&mut Act<D>, &mut Buf<D, f32>, &Act<D>),
    ) {
        self.block_inside(layer, saved, act, x, dropout_key, dims, attend);
        let (weights, matrices) = (&self.weights.blocks[layer], &self.matrices.blocks[layer]);
        let dropout = self.dropout(Site::MlpProjection(layer), dropout_key);
        self.device().linear_residual_forward(
            out, &saved.middle, act, &matrices.mlp_proj, &weights.mlp.c_proj.bias, dropout, dims.mlp_proj,
        );
    }

    /// The block but for the projection that ends it: sets all that its backward pass reads beside `x`.
    fn block_inside(
        &self,
        layer: usize,
        saved: &mut BlockActivations<D>,
        act: &mut Act<D>,
        x: &Act<D>,
        dropout_key: Option<u64>,
        dims: Dims,
        attend: impl FnOnce(&mut Act<D>, &mut Buf<D, f32>, &Act<D>),
    ) {
        let (device, s) = (&**self.device(), saved);
        let (weights, matrices) = (&self.weights.blocks[layer], &self.matrices.blocks[layer]);
        // Attention.
        device.layernorm_forward(
            &mut s.ln_1.out, &mut s.ln_1.mean, &mut s.ln_1.rstd,
            x, &weights.ln_1.weight, &weights.ln_1.bias, dims.norm,
        );
        device.linear_forward(&mut s.qkv, &s.ln_1.out, &matrices.c_attn, &weights.attn.c_attn.bias, dims.c_attn);
        attend(&mut s.atty, &mut s.lse, &s.qkv);
        let dropout = self.dropout(Site::AttentionProjection(layer), dropout_key);
        device.linear_residual_forward(
            &mut s.middle, x, &s.atty, &matrices.attn_proj, &weights.attn.c_proj.bias, dropout, dims.attn_proj,
        );
        // The MLP.
        device.layernorm_forward(
            &mut s.ln_2.out, &mut s.ln_2.mean, &mut s.ln_2.rstd,
            &s.middle, &weights.ln_2.weight, &weights.ln_2.bias, dims.norm,
        );
        device.linear_gelu_forward(
            &mut s.kept, act, &s.ln_2.out, &matrices.c_fc, &weights.mlp.c_fc.bias, dims.c_fc,
        );
    }

    /// The backward pass of `block_forward`: `d.dstream` is the gradient of `out` before, that of `x` after. `has_bias` says
    /// that the bias of the MLP's projection has its gradient already, and what is returned the same of the block below,
    /// whose bias's gradient is `of_below` where that is wanted.
    fn block_backward(
        &self,
        layer: usize,
        d: &mut ActivationGradients<D>,
        grads: &mut Block<Buf<D, f32>>,
        has_bias: bool,
        of_below: Option<&mut Buf<D, f32>>,
        saved: &BlockActivations<D>,
        act: &Act<D>,
        x: &Act<D>,
        starts: Option<&Buf<D, u32>>,
        dropout_key: Option<u64>,
        dims: Dims,
    ) -> bool {
        let (device, s) = (&**self.device(), saved);
        let (weights, matrices) = (&self.weights.blocks[layer], &self.matrices.blocks[layer]);
        // The MLP.
        let dropout = self.dropout(Site::MlpProjection(layer), dropout_key);
        let dbranch = self.dropout_backward(&mut d.dbranch, &d.dstream, dropout, dims.mlp_proj);
        let (c_fc, c_proj) = (&mut grads.mlp.c_fc, &mut grads.mlp.c_proj);
        let has_bias = device.linear_gelu_backward(
            &mut d.dwide, &mut c_fc.bias, &mut c_proj.weight, (!has_bias).then_some(&mut c_proj.bias),
            dbranch, &s.kept, act, &matrices.mlp_proj, dims.mlp_proj,
        );
        device.linear_backward(
            &mut d.dnorm, &mut c_fc.weight, (!has_bias).then_some(&mut c_fc.bias),
            &d.dwide, &s.ln_2.out, &matrices.c_fc, dims.c_fc,
        );
        let c_proj = &mut grads.attn.c_proj;
        let of_c_proj = self.undropped(Site::AttentionProjection(layer), dropout_key, &mut c_proj.bias);
        let has_bias = device.layernorm_backward(
            &mut d.dstream, of_c_proj, &mut grads.ln_2.weight, &mut grads.ln_2.bias,
            &d.dnorm, &s.ln_2.mean, &s.ln_2.rstd, &s.middle, &weights.ln_2.weight, dims.norm,
        );
        // Attention.
        let dropout = self.dropout(Site::AttentionProjection(layer), dropout_key);
        let dbranch = self.dropout_backward(&mut d.dbranch, &d.dstream, dropout, dims.attn_proj);
        let datty = &mut d.dnorm;
        device.linear_backward(
            datty, &mut c_proj.weight, (!has_bias).then_some(&mut c_proj.bias),
            dbranch, &s.atty, &matrices.attn_proj, dims.attn_proj,
        );
        let dropout = self.dropout(Site::Attention(layer), dropout_key);
        device.attention_backward(&mut d.dwide, datty, &s.atty, &s.lse, &s.qkv, starts, dropout, dims.attention);
        device.linear_backward(
            &mut d.dnorm, &mut grads.attn.c_attn.weight, Some(&mut grads.attn.c_attn.bias),
            &d.dwide, &s.ln_1.out, &matrices.c_attn, dims.c_attn,
        );
        device.layernorm_backward(
            &mut d.dstream, of_below, &mut grads.ln_1.weight, &mut grads.ln_1.bias,
            &d.dnorm, &s.ln_1.mean, &s.ln_1.rstd, x, &weights.ln_1.weight, dims.norm,
        )
    }

    /// Attention over the whole causal square of a block, or what `starts` leave of it: what
    /// [`block_forward`](Self::block_forward) is given but in generation.
    fn attend(
        &self,
        layer: usize,
        starts: Option<&Buf<D, u32>>,
        dropout_key: Option<u64>,
        dims: Dims,
    ) -> impl FnOnce(&mut Act<D>, &mut Buf<D, f32>, &Act<D>) {
        let dropout = self.dropout(Site::Attention(layer), dropout_key);
        move |atty, lse, qkv| self.device().attention_forward(atty, lse, qkv, starts, dropout, dims.attention)
    }

    /// The gradient of a branch's bias, where nothing is dropped between the branch and the stream: only then is the sum of the
    /// stream's gradient also that of the bias.
    fn undropped<'a>(&self, site: Site, key: Option<u64>, bias: &'a mut Buf<D, f32>) -> Option<&'a mut Buf<D, f32>> {
        (!self.dropout(site, key).is_active()).then_some(bias)
    }

    /// The gradient of a branch before its dropout: the stream's own where nothing was dropped.
    fn dropout_backward<'a>(
        &self,
        dbranch: &'a mut Act<D>,
        dstream: &'a Act<D>,
        dropout: Dropout,
        dims: LinearDims,
    ) -> &'a Act<D> {
        if !dropout.is_active() {
            return dstream;
        }
        self.device().dropout_backward(dbranch, dstream, dropout, dims);
        dbranch
    }

    pub(crate) fn ln_f_forward(&self, acts: &mut Activations<D>, dims: Dims) {
        let last = self.config().n_layer % acts.stream.len();
        let (ln_f, weights) = (&mut acts.ln_f, &self.weights.ln_f);
        self.device().layernorm_forward(
            &mut ln_f.out, &mut ln_f.mean, &mut ln_f.rstd,
            &acts.stream[last], &weights.weight, &weights.bias, dims.norm,
        );
    }

    /// A number for everything that the operations of a pass depend on but the dropouts' keys: FNV-1a over it.
    pub(crate) fn signature(&self, dims: Dims, has_starts: bool, dropout_key: Option<u64>, gradients: u64) -> u64 {
        let config = self.config();
        let probabilities = [config.embd_pdrop, config.attn_pdrop, config.resid_pdrop];
        let [embd, attn, resid] = probabilities.map(|p| if dropout_key.is_some() { u64::from(p.to_bits()) } else { 0 });
        let shape = [dims.attention.batch as u64, dims.attention.time as u64];
        let epsilon = u64::from(dims.norm.epsilon.to_bits());
        let has_starts = u64::from(has_starts);
        let parts = [self.identity, gradients, shape[0], shape[1], has_starts, embd, attn, resid, epsilon];
        let bytes = parts.iter().flat_map(|part| part.to_le_bytes());
        bytes.fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3))
    }

    /// The mask of a site. The probability is the configuration's; the key is the micro-batch's and the site's.
    fn dropout(&self, site: Site, key: Option<u64>) -> Dropout {
        let config = self.config();
        let (probability, number) = match site {
            Site::Embedding => (config.embd_pdrop, 0),
            Site::Attention(layer) => (config.attn_pdrop, 3 * layer + 1),
            Site::AttentionProjection(layer) => (config.resid_pdrop, 3 * layer + 2),
            Site::MlpProjection(layer) => (config.resid_pdrop, 3 * layer + 3),
        };
        key.map_or(Dropout::NONE, |key| Dropout::new(probability, key, number as u64))
    }

    /// Checks the tokens of a step and copies them to the device.
    pub(crate) fn begin(
        &self,
        acts: &mut Activations<D>,
        inputs: &[u32],
        time: usize,
        dropout_key: Option<u64>,
    ) -> Dims {
        let config = self.config();
        let num_tokens = inputs.len();
        assert!(time > 0 && num_tokens > 0 && num_tokens.is_multiple_of(time), "{num_tokens} tokens, rows of {time}");
        assert!(time <= config.n_positions, "rows of {time} tokens, but {} positions", config.n_positions);
        assert!(num_tokens <= acts.capacity(), "{num_tokens} tokens, activations for {}", acts.capacity());
        let unknown = inputs.iter().find(|&&id| id as usize >= config.vocab_size);
        assert!(unknown.is_none(), "token {unknown:?} is not below the vocabulary size {}", config.vocab_size);
        let dims = Dims::new(config, num_tokens / time, time);
        (acts.step, acts.is_fresh) = (Some((dims, dropout_key)), true);
        self.device().write(&mut acts.tokens, inputs);
        dims
    }

    /// Checks the targets of the step that forward began and copies them to the device.
    fn begin_head(&self, acts: &mut Activations<D>, targets: &[u32]) -> (Dims, Option<u64>) {
        let step = acts.last_step();
        let (rows, vocab_size) = (step.0.rows(), self.config().vocab_size);
        assert_eq!(targets.len(), rows, "one target for each input");
        let unknown = targets.iter().find(|&&id| id as usize >= vocab_size && id != IGNORE);
        assert!(unknown.is_none(), "target {unknown:?} is not below the vocabulary size {vocab_size}");
        self.device().write(&mut acts.targets, targets);
        step
    }
}

impl<D: Backend> Activations<D> {
    /// The shapes of the last forward pass, and the key of its dropout. What needs them follows one: anything else is a bug
    /// of the caller.
    fn last_step(&self) -> (Dims, Option<u64>) {
        self.step.expect("forward was run")
    }

    /// The buffers of block `layer`, which take turns where they are not kept.
    pub(crate) fn around(&mut self, layer: usize) -> Around<'_, D> {
        let (num_streams, num_blocks) = (self.stream.len(), self.blocks.len());
        let around = [layer % num_streams, (layer + 1) % num_streams];
        let [x, out] = self.stream.get_disjoint_mut(around).expect("there are two streams at least");
        let (saved, starts) = (&mut self.blocks[layer % num_blocks], self.has_starts.then_some(&self.starts));
        let num_acts = self.act.len();
        let act = &mut self.act[layer % num_acts];
        Around { x, out, saved, act, starts }
    }
}
