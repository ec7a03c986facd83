//! Text in, text out: the streamed text is the completion's text, and folders that do not belong together are refused.

use eyas_model::{Config, Gpt, Use};
use eyas_ops::{Cpu, CudaOptions};
use eyas_serve::{Completer, Error, FinishReason, OpenOptions, Place, Precision, Sampling};
use eyas_token::{TrainOptions, WordCounts, train};
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;

fn folder(dir: &Path, vocab_size: usize) {
    let mut counts = WordCounts::new();
    counts.add(&"fn größe(x: u32) -> u32 { x * 2 } // naïve → ok\n".repeat(20));
    let options = TrainOptions { vocab_size: 300, ..Default::default() };
    train(counts, &options, &mut |_, _| {}).expect("trains").save(dir).expect("saves");
    let config = Config {
        vocab_size,
        n_positions: 32,
        n_embd: 32,
        n_layer: 2,
        n_head: 2,
        bos_token_id: Some(0),
        eos_token_id: Some(0),
        ..Config::default()
    };
    let mut gpt = Gpt::new(Arc::new(Cpu::<f32>::new()), config, Use::Inference).expect("a network");
    gpt.init(3);
    gpt.save(dir).expect("saves");
}

#[test]
fn streamed_text_is_the_completions_text() {
    let dir = tempfile::tempdir().expect("a folder");
    folder(dir.path(), 300);
    for precision in [Precision::F32, Precision::Bf16, Precision::Int8, Precision::Int4] {
        let options = OpenOptions { precision, device: Place::Cpu { num_threads: Some(2) }, tokenizer: None };
        let completer = Completer::open(dir.path(), &options).expect("opens");
        let ids = completer.prompt_ids("fn gr").expect("ids");
        let sampling = Sampling { do_sample: true, max_new_tokens: 20, seed: 5, ..Sampling::default() };
        let mut streamed = vec![String::new(); 3];
        let completions = completer
            .complete(&ids, &sampling, 3, &mut |i, text| {
                streamed[i].push_str(text);
                ControlFlow::Continue(())
            })
            .expect("completes");
        assert_eq!(completions.len(), 3);
        for (completion, streamed) in completions.iter().zip(&streamed) {
            assert_eq!(&completion.text, streamed);
            assert_eq!(completion.text, completer.tokenizer().decode_lossy(&completion.ids, true));
            let ends = completion.ids.last() == Some(&0);
            assert_eq!(completion.finish_reason == FinishReason::Stop, ends);
        }
    }
}

#[test]
fn a_caller_that_breaks_ends_its_sequence() {
    let dir = tempfile::tempdir().expect("a folder");
    folder(dir.path(), 300);
    let completer = Completer::open(dir.path(), &OpenOptions::default()).expect("opens");
    let ids = completer.prompt_ids("fn").expect("ids");
    let completions = completer
        .complete(&ids, &Sampling::default(), 1, &mut |_, _| ControlFlow::Break(()))
        .expect("completes");
    assert!(completions[0].ids.len() < 8, "{completions:?}");
}

#[test]
fn long_prompts_keep_their_end_and_empty_ones_begin_a_document() {
    let dir = tempfile::tempdir().expect("a folder");
    folder(dir.path(), 300);
    let completer = Completer::open(dir.path(), &OpenOptions::default()).expect("opens");
    assert_eq!(completer.prompt_ids("").expect("ids"), [0]);
    let ids: Vec<u32> = (0..100).collect();
    assert_eq!(completer.fit(&ids[..31], 64), &ids[..31]);
    assert_eq!(completer.fit(&ids, 10), &ids[78..]);
    assert_eq!(completer.fit(&ids, 64), &ids[84..]);
}

#[test]
fn a_tokenizer_with_more_ids_than_the_model_is_refused() {
    let dir = tempfile::tempdir().expect("a folder");
    folder(dir.path(), 258);
    match Completer::open(dir.path(), &OpenOptions::default()) {
        Err(Error::Vocabulary { tokenizer, model: 258, .. }) => assert!(tokenizer > 258),
        other => panic!("{:?}", other.map(|_| "opened")),
    }
}

#[test]
fn a_precision_that_the_device_does_not_have_is_refused() {
    let dir = tempfile::tempdir().expect("a folder");
    folder(dir.path(), 300);
    let open = |precision, device| {
        let options = OpenOptions { precision, device, tokenizer: None };
        Completer::open(dir.path(), &options).map(|_| "opened")
    };
    let on_cpu = open(Precision::F16, Place::default());
    assert!(matches!(on_cpu, Err(Error::Precision { precision: Precision::F16, .. })), "{on_cpu:?}");
    let on_gpu = open(Precision::Int4, Place::Cuda(CudaOptions::default()));
    assert!(matches!(on_gpu, Err(Error::Precision { precision: Precision::Int4, .. })), "{on_gpu:?}");
}

#[test]
fn a_gpu_that_is_not_there_is_an_error() {
    let dir = tempfile::tempdir().expect("a folder");
    folder(dir.path(), 300);
    // No GPU has this number.
    let options = OpenOptions {
        device: Place::Cuda(CudaOptions { ordinal: 4096, ..CudaOptions::default() }),
        ..OpenOptions::default()
    };
    let opened = Completer::open(dir.path(), &options).map(|_| "opened");
    assert!(matches!(opened, Err(Error::Cuda(_))), "{opened:?}");
}
