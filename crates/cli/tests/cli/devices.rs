//! The choice of a device: its values, what `auto` makes of it, and what is said where there is no GPU.

use crate::common::World;

/// Whether tests that need a machine without a GPU are passed over here.
#[expect(clippy::print_stdout, reason = "a test that is passed over says so")]
fn has_gpu() -> bool {
    let has_driver = std::path::Path::new("/proc/driver/nvidia/version").exists()
        || ["/dev/nvidiactl", "/dev/dxg"].iter().any(|path| std::path::Path::new(path).exists());
    if has_driver {
        println!("skipped: this machine has a driver");
    }
    has_driver
}

#[test]
fn a_device_is_auto_cpu_cuda_or_a_number_of_it() {
    let world = World::with_tokenizer();
    for command in [
        "eval --model model --data code --device gpu",
        "generate --model model fn --device cuda:",
        "quickstart code --device metal",
        "bench training --device 0",
        "bench generation --device CPU",
        "bench cuda --device cpu",
    ] {
        world.run(command).refused(2, &["expected", "cuda:N"]);
    }
    world.train("--output-dir out --device cuda:first").refused(2, &["`device`", "cuda:N", "`cuda:first`"]);
    world.write(
        "run.toml",
        "output_dir = 'out'\ntrain_data = 'code'\ntokenizer = 'tokenizer'\ndevice = 'tpu'\n",
    );
    world.run("train run.toml").refused(2, &["`device`", "`tpu`"]);
    assert!(!world.path("out").exists());
}

#[test]
fn every_command_that_computes_takes_a_device() {
    let world = World { dir: tempfile::tempdir().expect("a folder") };
    let commands =
        ["train", "eval", "generate", "quickstart", "bench training", "bench generation", "bench cuda"];
    for command in commands {
        let help = world.run(&format!("{command} --help")).ok().stdout;
        assert!(help.contains("--device") && help.contains("cuda:1"), "{command}: {help}");
    }
    assert!(world.run("bench --help").ok().stdout.contains("Check and measure a GPU"));
}

#[test]
fn what_is_for_the_cpu_only_is_wrong_usage_with_a_gpu() {
    let world = World::with_model();
    for (command, parts) in [
        ("generate --model model fn --device cuda --precision int8", ["int8", "--device cuda"]),
        ("eval --model model --data code --device cuda:1 --precision int4", ["int4", "--device cuda:1"]),
        ("bench generation --device cuda --format int8", ["int8", "--device cuda"]),
        ("bench training --device cuda --threads 2", ["--threads", "--device cuda"]),
        ("bench training --device cuda --isa portable", ["--isa", "--device cuda"]),
    ] {
        world.run(command).refused(2, &[parts[0], parts[1], "hint:"]);
    }
}

#[test]
fn fp16_on_the_cpu_is_refused_with_what_to_take_instead() {
    let world = World::with_model();
    for command in [
        "eval --model model --data code --device cpu --precision fp16",
        "generate --model model fn --device cpu --precision fp16",
        "bench training --device cpu --precision fp16",
        "bench generation --device cpu --format fp16",
    ] {
        world.run(command).refused(2, &["fp16", "bf16"]);
    }
    world.train("--output-dir out --device cpu --fp16").refused(2, &["fp16", "bf16"]);
    assert!(!world.path("out").exists());
}

#[test]
fn a_gpu_that_is_not_there_is_named() {
    if has_gpu() {
        return;
    }
    let world = World::with_model();
    for command in [
        "eval --model model --data code --device cuda",
        "generate --model model fn --device cuda --precision bf16",
        "quickstart code --minutes 0.1 --out out --device cuda",
        "bench training --device cuda",
        "bench generation --device cuda:1",
        "bench cuda",
    ] {
        world.run(command).refused(1, &["--device cuda", "libcuda", "EYAS_CUDA_PATH"]);
    }
    world.train("--output-dir out --device cuda").refused(1, &["libcuda"]);
    assert!(!world.path("out").exists());
}

#[test]
fn auto_takes_the_cpu_where_there_is_no_gpu() {
    if has_gpu() {
        return;
    }
    let world = World::with_model();
    let eval = ["eval", "--model", "model", "--data", "code", "--json"];
    let auto = world.run_with(&eval, "").ok();
    assert!(!auto.stderr.contains("warning:") && !auto.stderr.contains("libcuda"), "{}", auto.stderr);
    assert_eq!(world.run_with(&[&eval[..], &["--device", "cpu"]].concat(), "").ok().stdout, auto.stdout);

    // A driver that does not load is worth a word, and still no reason to fail.
    world.write("cuda/lib64/libcuda.so.1", "not a library");
    let output = world.command().args(eval).env("EYAS_CUDA_PATH", world.path("cuda")).output();
    let output = output.expect("eyas starts");
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(stderr.contains("warning:") && stderr.contains("cuda/lib64/libcuda.so.1: "), "{stderr}");
    assert_eq!(String::from_utf8_lossy(&output.stdout), auto.stdout);
}
