//! The KV cache: keys and values of the tokens read so far, so that a new token costs one pass over itself alone.
//!
//! Blocks are those of `network.rs`; only attention differs, which reads the cache instead of the whole square. The trick:
//! the last token of a prompt always goes alone, so that the rows whose logits are wanted are the whole of a buffer.

use crate::activations::{Activations, Around, Dims, Keep};
use crate::model::Gpt;
use eyas_ops::{Act, Backend, Buf, Buffer, CachedAttentionDims, Changing, Dropout, Element};

/// Tokens that a prompt is read in at a time.
pub(crate) const PIECE: usize = 128;

/// Keys and values of B sequences of equal length, and the buffers that reading more tokens takes.
pub struct KvCache<D: Backend> {
    batch: usize,
    capacity: usize,
    len: usize,
    keys: Vec<Act<D>>,   // each (B, NH, capacity, HS)
    values: Vec<Act<D>>, // each (B, NH, capacity, HS)
    acts: Activations<D>,
    logits: Buf<D, f32>,   // (B, V)
    host_logits: Vec<f32>, // (B, V)
    /// What a new token of each sequence takes.
    recording: D::Recording,
}

impl<D: Backend> KvCache<D> {
    /// An empty cache for one sequence of up to `capacity` tokens, at most the network's positions.
    pub fn new(gpt: &Gpt<D>, capacity: usize) -> Self {
        Self::allocate(gpt, 1, capacity, PIECE)
    }

    fn allocate(gpt: &Gpt<D>, batch: usize, capacity: usize, piece: usize) -> Self {
        let (device, config) = (gpt.device(), gpt.config());
        let positions = config.n_positions;
        assert!(
            (1..=positions).contains(&capacity),
            "a cache of {capacity} tokens for {positions} positions"
        );
        let num_logits = batch * config.vocab_size;
        let layers = || device.zeros_together(config.n_layer, batch * capacity * config.n_embd);
        KvCache {
            batch,
            capacity,
            len: 0,
            keys: layers(),
            values: layers(),
            acts: Activations::allocate(device, config, batch, piece.min(capacity), Keep::Nothing, false),
            logits: device.zeros(num_logits),
            host_logits: vec![0.0; num_logits],
            recording: D::Recording::default(),
        }
    }

    /// A cache in which each of `n` sequences has read what this one's only sequence has.
    pub fn repeat(&self, gpt: &Gpt<D>, n: usize) -> Self {
        assert_eq!(self.batch, 1, "only a single sequence can be repeated");
        let device = &**gpt.device();
        let mut repeated = Self::allocate(gpt, n, self.capacity, 1);
        repeated.len = self.len;
        let sources = self.keys.iter().chain(&self.values);
        for (copies, source) in repeated.keys.iter_mut().chain(&mut repeated.values).zip(sources) {
            let mut host = vec![D::Element::from_f32(0.0); source.len()];
            device.read(&mut host, source);
            device.write(copies, &host.repeat(n));
        }
        repeated
    }

    /// Tokens that each sequence has read.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether nothing was read.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Tokens that each sequence can have read at most.
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// Forgets all but the first `len` tokens, so that another continuation of them can be read.
    pub fn truncate(&mut self, len: usize) {
        self.len = self.len.min(len);
    }
}

impl<D: Backend> Gpt<D> {
    /// Reads `tokens` of the only sequence of `cache`, without logits.
    pub fn prefill(&self, cache: &mut KvCache<D>, tokens: &[u32]) {
        assert_eq!(cache.batch, 1, "a prompt is read by one sequence, then repeated");
        for piece in tokens.chunks(cache.acts.capacity()) {
            let (dims, cached) = self.begin_read(cache, piece);
            self.queue_read(cache, dims, cached);
            cache.len += piece.len();
        }
    }

    /// Reads one token of each sequence and returns the logits of the next, (B, V), which the caller may change.
    pub fn step<'a>(&self, cache: &'a mut KvCache<D>, tokens: &[u32]) -> &'a mut [f32] {
        assert_eq!(tokens.len(), cache.batch, "one token for each sequence");
        let (dims, cached) = self.begin_read(cache, tokens);
        let mut recording = std::mem::take(&mut cache.recording);
        let signature = self.signature(dims, false, None, 0);
        let changing = Changing { position: cache.len, ..Changing::default() };
        self.device().replay(&mut recording, signature, changing, || {
            self.queue_read(cache, dims, cached);
            self.ln_f_forward(&mut cache.acts, dims);
            self.device().logits(&mut cache.logits, &cache.acts.ln_f.out, &self.matrices.head, dims.head);
        });
        cache.recording = recording;
        cache.len += 1;
        self.device().read(&mut cache.host_logits, &cache.logits);
        &mut cache.host_logits
    }

    /// Checks new tokens (B, T) of each sequence and copies them to the device.
    fn begin_read(&self, cache: &mut KvCache<D>, tokens: &[u32]) -> (Dims, CachedAttentionDims) {
        let time = tokens.len() / cache.batch;
        assert!(
            time <= cache.capacity - cache.len,
            "{time} tokens after {} of {}",
            cache.len,
            cache.capacity
        );
        let mut dims = self.begin(&mut cache.acts, tokens, time, None);
        dims.embedding.start = cache.len;
        let cached = CachedAttentionDims {
            batch: cache.batch,
            time,
            cached: cache.len,
            capacity: cache.capacity,
            heads: dims.attention.heads,
            head_size: dims.attention.head_size,
        };
        (dims, cached)
    }

    /// Runs the blocks on what `begin_read` copied, appending keys and values.
    fn queue_read(&self, cache: &mut KvCache<D>, dims: Dims, cached: CachedAttentionDims) {
        let (device, weights, acts) = (&**self.device(), &self.weights, &mut cache.acts);
        let (stream, tokens) = (&mut acts.stream[0], &acts.tokens);
        device.embedding_forward(stream, tokens, &weights.wte, &weights.wpe, Dropout::NONE, dims.embedding);
        for (layer, (keys, values)) in cache.keys.iter_mut().zip(&mut cache.values).enumerate() {
            let Around { x, out, saved, act, .. } = acts.around(layer);
            self.block_forward(layer, out, saved, act, x, None, dims, |atty, _, qkv| {
                device.attention_cached(atty, keys, values, qkv, cached);
            });
        }
    }
}
