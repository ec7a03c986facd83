//! The module tree as PyTorch prints a GPT2LMHeadModel, so that the two can be compared by eye or by `diff`.

use crate::config::Config;
use crate::parameters::{Affine, Declaration};

/// The tree, one module a line, ending in a newline.
pub fn module_tree(config: &Config) -> String {
    let table = config.parameters();
    let block = &table.blocks[0];
    let dropout = |p: f32| format!("Dropout(p={}, inplace=False)", python_float(p));
    let layernorm = |norm: &Affine<Declaration>| {
        let (channels, eps) = (norm.weight.shape[0], python_float(config.layer_norm_epsilon));
        format!("LayerNorm(({channels},), eps={eps}, elementwise_affine=True, bias=True)")
    };
    let embedding = |weight: &Declaration| format!("Embedding({}, {})", weight.shape[0], weight.shape[1]);
    let conv1d = |layer: &Affine<Declaration>| {
        format!("Conv1D(nf={}, nx={})", layer.weight.shape[1], layer.weight.shape[0])
    };
    let blocks = match config.n_layer {
        1 => "(0): GPT2Block(".to_string(),
        n => format!("(0-{}): {n} x GPT2Block(", n - 1),
    };
    let act = match config.activation_function.as_str() {
        "gelu_pytorch_tanh" => "GELUTanh()",
        _ => "NewGELUActivation()",
    };
    let head =
        format!("Linear(in_features={}, out_features={}, bias=False)", config.n_embd, config.vocab_size);

    let mut tree = Tree { text: String::new(), depth: 0 };
    tree.open("GPT2LMHeadModel(");
    tree.open("(transformer): GPT2Model(");
    tree.line("wte", &embedding(&table.wte));
    tree.line("wpe", &embedding(&table.wpe));
    tree.line("drop", &dropout(config.embd_pdrop));
    tree.open("(h): ModuleList(");
    tree.open(&blocks);
    tree.line("ln_1", &layernorm(&block.ln_1));
    tree.open("(attn): GPT2Attention(");
    tree.line("c_attn", &conv1d(&block.attn.c_attn));
    tree.line("c_proj", &conv1d(&block.attn.c_proj));
    tree.line("attn_dropout", &dropout(config.attn_pdrop));
    tree.line("resid_dropout", &dropout(config.resid_pdrop));
    tree.close();
    tree.line("ln_2", &layernorm(&block.ln_2));
    tree.open("(mlp): GPT2MLP(");
    tree.line("c_fc", &conv1d(&block.mlp.c_fc));
    tree.line("c_proj", &conv1d(&block.mlp.c_proj));
    tree.line("act", act);
    tree.line("dropout", &dropout(config.resid_pdrop));
    tree.close();
    tree.close();
    tree.close();
    tree.line("ln_f", &layernorm(&table.ln_f));
    tree.close();
    tree.line("lm_head", &head);
    tree.close();
    tree.text
}

struct Tree {
    text: String,
    depth: usize,
}

impl Tree {
    fn push(&mut self, line: &str) {
        self.text.extend(std::iter::repeat_n("  ", self.depth).chain([line, "\n"]));
    }

    fn line(&mut self, name: &str, module: &str) {
        self.push(&format!("({name}): {module}"));
    }

    fn open(&mut self, line: &str) {
        self.push(line);
        self.depth += 1;
    }

    fn close(&mut self) {
        self.depth -= 1;
        self.push(")");
    }
}

/// A number as Python's repr writes it: `0.1`, `0.0`, `1e-05`.
fn python_float(x: f32) -> String {
    if x != 0.0 && x.abs() < 1e-4 {
        let text = format!("{x:e}");
        match text.split_once("e-") {
            Some((digits, exponent)) => format!("{digits}e-{exponent:0>2}"),
            None => text,
        }
    } else {
        format!("{x:?}")
    }
}

#[cfg(test)]
mod tests {
    use super::python_float;

    #[test]
    fn floats_are_written_as_python_does() {
        for (x, text) in [(0.1, "0.1"), (0.0, "0.0"), (1e-5, "1e-05"), (1.5e-12, "1.5e-12"), (1e-4, "0.0001")]
        {
            assert_eq!(python_float(x), text);
        }
    }
}
