//! The parameter table: every parameter of GPT-2, declared once with name, shape, initial values, decay group and use.
//!
//! Weights, gradients, optimizer state, checkpoint names, the printed tree, the parameter count and the FLOP count all
//! derive from [`Parameters::declare`]. The trick: the table is generic in what it holds, so that a table of
//! declarations, of buffers, or of anything made from them has the same typed fields in the same order.

use crate::config::Config;

/// How a parameter begins.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Init {
    /// Normal with mean 0, not truncated.
    Normal {
        /// Standard deviation.
        std: f32,
    },
    /// All 0.
    Zeros,
    /// All 1.
    Ones,
}

/// One parameter.
#[derive(Clone, Debug, PartialEq)]
pub struct Declaration {
    /// Its name in checkpoints: `transformer.h.0.attn.c_attn.weight`.
    pub name: String,
    /// Its shape, as stored: a Conv1D weight is (inputs, outputs).
    pub shape: Vec<usize>,
    /// Its initial values.
    pub init: Init,
    /// Whether weight decay applies: to everything but biases and LayerNorm.
    pub decay: bool,
    /// Whether every token is multiplied by it as a matrix: what FLOPs are counted for.
    pub is_matrix: bool,
}

impl Declaration {
    /// Number of elements.
    pub fn len(&self) -> usize {
        self.shape.iter().product()
    }

    /// Whether it has no elements; never so in a valid configuration.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Defines a part of the table: `own` fields hold a T each, `parts` are parts themselves.
macro_rules! part {
    ($(#[$doc:meta])* $name:ident {
        own { $($(#[$own_doc:meta])* $own:ident),* }
        parts { $($(#[$part_doc:meta])* $part:ident: $kind:ident),* }
    }) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq)]
        pub struct $name<T> {
            $($(#[$own_doc])* pub $own: T,)*
            $($(#[$part_doc])* pub $part: $kind<T>,)*
        }

        impl<T> $name<T> {
            fn map<U>(&self, f: &mut impl FnMut(&T) -> U) -> $name<U> {
                $name { $($own: f(&self.$own),)* $($part: self.$part.map(f),)* }
            }

            fn iter(&self) -> impl Iterator<Item = &T> {
                std::iter::empty()$(.chain([&self.$own]))*$(.chain(self.$part.iter()))*
            }

            fn iter_mut(&mut self) -> impl Iterator<Item = &mut T> {
                std::iter::empty()$(.chain([&mut self.$own]))*$(.chain(self.$part.iter_mut()))*
            }
        }
    };
}

part! {
    /// The parameters of a LayerNorm, or of a linear layer.
    Affine {
        own {
            /// (C), or (inputs, outputs).
            weight,
            /// (C), or (outputs).
            bias
        }
        parts {}
    }
}

part! {
    /// The parameters of attention.
    Attention {
        own {}
        parts {
            /// To queries, keys and values: (C, 3C).
            c_attn: Affine,
            /// Back to the residual stream: (C, C).
            c_proj: Affine
        }
    }
}

part! {
    /// The parameters of the MLP.
    Mlp {
        own {}
        parts {
            /// To the inner width: (C, inner).
            c_fc: Affine,
            /// Back to the residual stream: (inner, C).
            c_proj: Affine
        }
    }
}

part! {
    /// The parameters of one block.
    Block {
        own {}
        parts {
            /// Before attention.
            ln_1: Affine,
            /// Attention.
            attn: Attention,
            /// Before the MLP.
            ln_2: Affine,
            /// The MLP.
            mlp: Mlp
        }
    }
}

/// One T for each parameter, in the order of checkpoints.
#[derive(Clone, Debug, PartialEq)]
pub struct Parameters<T> {
    /// Token embedding, and the head: (V, C).
    pub wte: T,
    /// Position embedding: (P, C).
    pub wpe: T,
    /// The blocks, first to last.
    pub blocks: Vec<Block<T>>,
    /// The last LayerNorm.
    pub ln_f: Affine<T>,
}

impl<T> Parameters<T> {
    /// The same table of what `f` makes of each entry, called in order.
    pub fn map<U>(&self, mut f: impl FnMut(&T) -> U) -> Parameters<U> {
        Parameters {
            wte: f(&self.wte),
            wpe: f(&self.wpe),
            blocks: self.blocks.iter().map(|block| block.map(&mut f)).collect(),
            ln_f: self.ln_f.map(&mut f),
        }
    }

    /// The entries in order.
    pub fn iter(&self) -> impl Iterator<Item = &T> {
        let blocks = self.blocks.iter().flat_map(Block::iter);
        [&self.wte, &self.wpe].into_iter().chain(blocks).chain(self.ln_f.iter())
    }

    /// The entries in order, to be changed.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = &mut T> {
        let blocks = self.blocks.iter_mut().flat_map(Block::iter_mut);
        [&mut self.wte, &mut self.wpe].into_iter().chain(blocks).chain(self.ln_f.iter_mut())
    }
}

impl Parameters<Declaration> {
    /// The parameters of a network: the only place that names them.
    ///
    /// Initial values are those of Radford et al. (2019): N(0, 0.02), with the projections into the residual stream
    /// scaled by 1 / sqrt(2 L), because 2 L of them add up there.
    pub fn declare(config: &Config) -> Self {
        let (channels, inner) = (config.n_embd, config.inner());
        let normal = Init::Normal { std: config.initializer_range };
        let residual = Init::Normal {
            std: (f64::from(config.initializer_range) / (2.0 * config.n_layer as f64).sqrt()) as f32,
        };
        let embedding = |name: &str, rows: usize, is_matrix: bool| Declaration {
            name: format!("transformer.{name}.weight"),
            shape: vec![rows, channels],
            init: normal,
            decay: true,
            is_matrix,
        };
        let vector = |name: String, len: usize, init: Init| Declaration {
            name,
            shape: vec![len],
            init,
            decay: false,
            is_matrix: false,
        };
        let layernorm = |name: String| Affine {
            weight: vector(format!("transformer.{name}.weight"), channels, Init::Ones),
            bias: vector(format!("transformer.{name}.bias"), channels, Init::Zeros),
        };
        let conv1d = |name: String, inputs: usize, outputs: usize, init: Init| Affine {
            weight: Declaration {
                name: format!("transformer.{name}.weight"),
                shape: vec![inputs, outputs],
                init,
                decay: true,
                is_matrix: true,
            },
            bias: vector(format!("transformer.{name}.bias"), outputs, Init::Zeros),
        };
        let block = |l: usize| Block {
            ln_1: layernorm(format!("h.{l}.ln_1")),
            attn: Attention {
                c_attn: conv1d(format!("h.{l}.attn.c_attn"), channels, 3 * channels, normal),
                c_proj: conv1d(format!("h.{l}.attn.c_proj"), channels, channels, residual),
            },
            ln_2: layernorm(format!("h.{l}.ln_2")),
            mlp: Mlp {
                c_fc: conv1d(format!("h.{l}.mlp.c_fc"), channels, inner, normal),
                c_proj: conv1d(format!("h.{l}.mlp.c_proj"), inner, channels, residual),
            },
        };
        Parameters {
            // wte is a matrix because it is the head too.
            wte: embedding("wte", config.vocab_size, true),
            wpe: embedding("wpe", config.n_positions, false),
            blocks: (0..config.n_layer).map(block).collect(),
            ln_f: layernorm("ln_f".into()),
        }
    }
}

/// Number of parameters.
pub fn num_parameters(config: &Config) -> usize {
    count(config, |_| true)
}

/// Number of parameters that weight decay applies to.
pub fn num_decayed(config: &Config) -> usize {
    count(config, |declaration| declaration.decay)
}

/// Floating-point operations of training on one token, forward and backward: 6 for each weight of a matrix that the
/// token is multiplied by, the head included, and 6 L C T for causal attention over `context_length` = T tokens.
pub fn flops_per_token(config: &Config, context_length: usize) -> f64 {
    let matrices = count(config, |declaration| declaration.is_matrix);
    let attention = config.n_layer as f64 * config.n_embd as f64 * context_length as f64;
    6.0 * matrices as f64 + 6.0 * attention
}

fn count(config: &Config, counted: impl Fn(&Declaration) -> bool) -> usize {
    Parameters::declare(config).iter().filter(|d| counted(d)).map(Declaration::len).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tutorial() -> Config {
        Config { vocab_size: 50_000, ..Config::default() }
    }

    #[test]
    fn counts_are_those_of_transformers() {
        assert_eq!(num_parameters(&tutorial()), 124_242_432);
        assert_eq!(num_decayed(&tutorial()), 124_121_088);
        assert_eq!(num_parameters(&Config::default()), 124_439_808);
        assert_eq!(Config::builtin("gpt2-xl").map(|c| num_parameters(&c)), Some(1_557_611_200));
    }

    #[test]
    fn names_are_unique_and_in_the_order_of_every_traversal() {
        let table = tutorial().parameters();
        let names: Vec<_> = table.iter().map(|d| d.name.clone()).collect();
        assert_eq!(names.len(), 148);
        assert_eq!(names[2], "transformer.h.0.ln_1.weight");
        assert_eq!(names[147], "transformer.ln_f.bias");
        let mut mapped = Vec::new();
        let mut copy = table.map(|d| {
            mapped.push(d.name.clone());
            d.clone()
        });
        assert_eq!(mapped, names);
        assert!(copy.iter_mut().map(|d| &d.name).eq(&names));
        let distinct: std::collections::HashSet<_> = names.iter().collect();
        assert_eq!(distinct.len(), names.len());
    }

    #[test]
    fn flops_are_those_of_the_usual_count() {
        let (layers, width, vocab, context) = (12.0, 768.0, 50_000.0, 128.0);
        let expected = 6.0 * (12.0 * layers * width * width + vocab * width) + 6.0 * layers * width * context;
        assert_eq!(flops_per_token(&tutorial(), 128), expected);
    }
}
