//! Kernels in PTX, small ones: what threads, warps and blocks do together, and what is a fault.

use super::{Launch, run};
use crate::memory::{self, Place};
use crate::numbers::{bf16_of, bf16_value};
use crate::ptx::Module;

/// Memory of the card for a test.
struct Words(u64, usize);

impl Words {
    fn new(values: &[u32]) -> Self {
        let address = memory::allocate(4 * values.len(), Place::Card).expect("memory");
        // SAFETY: it was allocated with room for as many.
        unsafe { std::ptr::copy_nonoverlapping(values.as_ptr(), address as *mut u32, values.len()) };
        Words(address, values.len())
    }

    fn values(&self) -> Vec<u32> {
        // SAFETY: it is alive, and `new` has set every word.
        unsafe { std::slice::from_raw_parts(self.0 as *const u32, self.1) }.to_vec()
    }
}

impl Drop for Words {
    fn drop(&mut self) {
        assert!(memory::free(self.0, Place::Card), "it is alive");
    }
}

/// Runs a kernel of one pointer, in %rd1, with %r1 the thread and %r2 the block.
fn run_body(body: &str, grid: u32, block: u32, memory: &Words) -> Result<(), String> {
    let text = format!(
        ".version 9.0
        .entry test(.param .u64 .ptr .align 4 pointer)
        {{
            .reg .pred %p<20>;
            .reg .b16 %rs<9>;
            .reg .b32 %r<100>;
            .reg .f32 %f<20>;
            .reg .b64 %rd<20>;
            .shared .align 16 .b8 tile[4096];
            ld.param.u64 %rd1, [pointer];
            mov.u32 %r1, %tid.x;
            mov.u32 %r2, %ctaid.x;
            {body}
            ret;
        }}"
    );
    let module = Module::parse(&text).expect("a text that is understood");
    let launch = Launch {
        grid: [grid, 1, 1],
        block: [block, 1, 1],
        shared_bytes: 0,
        parameters: memory.0.to_le_bytes().to_vec(),
    };
    run(&module.kernels["test"], &launch)
}

/// Stores %r9 at the thread's own word.
const STORE: &str = "mad.lo.s32 %r90, %r2, 64, %r1;
    mul.wide.u32 %rd9, %r90, 4; add.s64 %rd9, %rd1, %rd9; st.global.u32 [%rd9], %r9;";

#[test]
fn threads_that_part_meet_again() {
    // The sum of 0..=thread by a loop of as many turns; odd threads then add 1000; the warp's lanes exchange it.
    let body = format!(
        "mov.u32 %r9, 0; mov.u32 %r3, 0;
        turn: add.s32 %r9, %r9, %r3; add.s32 %r3, %r3, 1; setp.le.u32 %p1, %r3, %r1; @%p1 bra turn;
        and.b32 %r4, %r1, 1; setp.eq.s32 %p2, %r4, 0; @%p2 bra even;
        add.s32 %r9, %r9, 1000;
        even: shfl.sync.bfly.b32 %r9, %r9, 1, 31, -1; {STORE}"
    );
    let memory = Words::new(&[0; 64]);
    run_body(&body, 1, 64, &memory).expect("it runs");
    let alone = |thread: u32| thread * (thread + 1) / 2 + thread % 2 * 1000;
    let want: Vec<u32> = (0..64).map(|thread| alone(thread ^ 1)).collect();
    assert_eq!(memory.values(), want);
}

/// Every thread reads what its neighbour of the other warp wrote to shared memory.
fn exchange(between: &str) -> Vec<u32> {
    let body = format!(
        "mov.u32 %r5, tile; shl.b32 %r6, %r1, 2; add.s32 %r5, %r5, %r6; add.s32 %r7, %r1, 100;
        st.shared.u32 [%r5], %r7; {between}
        xor.b32 %r6, %r6, 128; mov.u32 %r5, tile; add.s32 %r5, %r5, %r6; ld.shared.u32 %r9, [%r5]; {STORE}"
    );
    let memory = Words::new(&[0; 128]);
    run_body(&body, 2, 64, &memory).expect("it runs");
    memory.values()
}

#[test]
fn a_missing_barrier_shows() {
    let want: Vec<u32> = (0..128).map(|i| ((i % 64) ^ 32) + 100).collect();
    assert_eq!(exchange("bar.sync 0;"), want);
    let without = exchange("");
    // In the first block the first warp is ahead, in the second the last.
    assert!(without[..32].iter().all(|&x| x == u32::MAX), "{without:?}");
    assert!(without[96..].iter().all(|&x| x == u32::MAX), "{without:?}");
}

#[test]
fn copies_that_are_not_waited_for_show() {
    let copied = |wait: &str| {
        let body = format!(
            "shl.b32 %r6, %r1, 2; cvt.u64.u32 %rd2, %r6; add.s64 %rd3, %rd1, %rd2;
            mov.u32 %r5, tile; add.s32 %r5, %r5, %r6;
            cp.async.ca.shared.global [%r5], [%rd3], 4, 4; cp.async.commit_group; {wait}
            ld.shared.u32 %r9, [%r5]; add.s32 %r9, %r9, 1; {STORE}"
        );
        let memory = Words::new(&(0..128).collect::<Vec<_>>());
        run_body(&body, 2, 64, &memory).expect("it runs");
        memory.values()
    };
    let waited = copied("cp.async.wait_group 0;");
    assert!(waited[64..].iter().enumerate().all(|(i, &x)| x == i as u32 % 64 + 1 || x == i as u32 % 64 + 2));
    // The second block makes them late: it reads what shared memory is filled with.
    assert!(copied("cp.async.wait_group 1;")[64..].iter().all(|&x| x == 0));
}

#[test]
fn barriers_in_memory_count_arrivals_and_bytes() {
    // Warp 1 has 16 bytes copied; warp 0 waits for them and for one arrival.
    let body = format!(
        "mov.u32 %r5, tile; setp.eq.s32 %p1, %r1, 0; add.s32 %r6, %r5, 64;
        @%p1 mbarrier.init.shared::cta.b64 [%r5], 1; bar.sync 0;
        setp.eq.s32 %p2, %r1, 32; @!%p2 bra waiting;
        mbarrier.arrive.expect_tx.shared::cta.b64 _, [%r5], 16;
        cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%r6], [%rd1], 16, [%r5];
        waiting: {{.reg .pred done; again: mbarrier.try_wait.parity.shared::cta.b64 done, [%r5], 0;
        @done bra over; bra again; over:}}
        ld.shared.u32 %r9, [%r6+4]; {STORE}"
    );
    let memory = Words::new(&[&[7, 42, 9, 9][..], &[0; 124]].concat());
    // Both blocks store 42s over the whole, of which they read one.
    run_body(&body, 2, 64, &memory).expect("it runs");
    assert_eq!(memory.values(), [42; 128]);
}

#[test]
fn numbers_of_16_bits_stay_such() {
    let body = format!(
        "add.s32 %r5, %r1, 0x3ffe0; cvt.u64.u32 %rd4, %r5; cvt.u16.u64 %rs1, %rd4; shr.u16 %rs2, %rs1, 4;
        mul.wide.u16 %r9, %rs2, 1024; {STORE}"
    );
    let memory = Words::new(&[0; 128]);
    run_body(&body, 2, 64, &memory).expect("it runs");
    let want = |i: u32| u32::from((i % 64 + 0x3ffe0) as u16 >> 4) * 1024;
    assert!(memory.values().iter().enumerate().all(|(i, &x)| x == want(i as u32)));

    // As compilers divide by 96 and take what is left, and below zero.
    let body = format!(
        "mul.lo.s32 %r5, %r1, 1000; cvt.u64.u32 %rd4, %r5; cvt.u16.u64 %rs1, %rd4; mul.hi.u16 %rs2, %rs1, 683;
        mul.lo.s16 %rs3, %rs2, 96; sub.s16 %rs4, %rs1, %rs3; sub.s16 %rs5, %rs4, 100; cvt.u32.u16 %r9, %rs5; {STORE}"
    );
    let memory = Words::new(&[0; 128]);
    run_body(&body, 2, 64, &memory).expect("it runs");
    let want = |i: u32| {
        let x = (i % 64 * 1000) as u16;
        let high = ((u32::from(x) * 683) >> 16) as u16;
        u32::from(x.wrapping_sub(high.wrapping_mul(96)).wrapping_sub(100))
    };
    assert!(memory.values().iter().enumerate().all(|(i, &x)| x == want(i as u32)));
}

#[test]
fn votes_are_the_warps() {
    // Only lane 40 is in favour: its warp is, the other is not.
    let body = format!(
        "setp.eq.s32 %p1, %r1, 40; vote.sync.any.pred %p2, %p1, -1; mov.u32 %r9, 3; @%p2 mov.u32 %r9, 4; {STORE}"
    );
    let memory = Words::new(&[0; 128]);
    run_body(&body, 2, 64, &memory).expect("it runs");
    assert!(memory.values().iter().enumerate().all(|(i, &x)| x == if i % 64 < 32 { 3 } else { 4 }));
}

#[test]
fn tensor_cores_multiply() {
    // One warp: fragments from memory, where registers lie lane by lane.
    let body = "shl.b32 %r6, %r1, 2; cvt.u64.u32 %rd2, %r6; add.s64 %rd3, %rd1, %rd2;
        ld.global.u32 %r10, [%rd3]; ld.global.u32 %r11, [%rd3+128]; ld.global.u32 %r12, [%rd3+256];
        ld.global.u32 %r13, [%rd3+384]; ld.global.u32 %r14, [%rd3+512]; ld.global.u32 %r15, [%rd3+640];
        mov.f32 %f1, 0f3F800000;
        mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%f2, %f3, %f4, %f5}, {%r10, %r11, %r12, %r13},
            {%r14, %r15}, {%f1, %f1, %f1, %f1};
        st.global.f32 [%rd3], %f2; st.global.f32 [%rd3+128], %f3; st.global.f32 [%rd3+256], %f4;
        st.global.f32 [%rd3+384], %f5;";
    let value = |i: usize| bf16_of(((i * 37 % 23) as f32 - 11.0) / 8.0);
    let (a, b) =
        (|row: usize, k: usize| value(16 * row + k), |k: usize, col: usize| value(500 + 8 * k + col));
    let pair = |low: u16, high: u16| u32::from(low) | u32::from(high) << 16;
    let mut words = Vec::new();
    for i in 0..4 {
        words.extend((0..32).map(|lane| {
            let (row, k) = (lane / 4 + i % 2 * 8, lane % 4 * 2 + i / 2 * 8);
            pair(a(row, k), a(row, k + 1))
        }));
    }
    for i in 0..2 {
        words.extend((0..32).map(|lane| {
            let (k, col) = (lane % 4 * 2 + 8 * i, lane / 4);
            pair(b(k, col), b(k + 1, col))
        }));
    }
    let memory = Words::new(&words);
    run_body(body, 1, 32, &memory).expect("it runs");
    let got = memory.values();
    for row in 0..16 {
        for col in 0..8 {
            let want: f32 = 1.0 + (0..16).map(|k| bf16_value(a(row, k)) * bf16_value(b(k, col))).sum::<f32>();
            let (register, lane) = (row / 8 * 2 + col % 2, row % 8 * 4 + col / 2);
            assert_eq!(f32::from_bits(got[32 * register + lane]), want, "row {row}, column {col}");
        }
    }
}

#[test]
fn what_a_product_reads_is_not_written_before_it_was_waited_for() {
    // A warpgroup multiplies by the tile, in rows of 128 bytes, then overwrites it.
    let run = |wait: &str| {
        let body = format!(
            "mov.u32 %r5, tile; cvt.u64.u32 %rd2, %r5; shr.u64 %rd2, %rd2, 4; or.b64 %rd2, %rd2, {};
            setp.eq.s32 %p3, %r1, -1; mov.u32 %r10, 0;
            wgmma.mma_async.sync.aligned.m64n8k16.f32.bf16.bf16 {{%f1, %f2, %f3, %f4}},
                {{%r10, %r10, %r10, %r10}}, %rd2, %p3, 1, 1, 0;
            wgmma.commit_group.sync.aligned; {wait} st.shared.u32 [%r5], %r1;",
            (1u64 << 62) | (64 << 32)
        );
        run_body(&body, 1, 128, &Words::new(&[0; 64]))
    };
    assert_eq!(run("wgmma.wait_group.sync.aligned 0;"), Ok(()));
    for wait in ["", "wgmma.wait_group.sync.aligned 1;"] {
        let fault = run(wait).expect_err("a fault");
        assert!(fault.contains("while a product reads it"), "{fault}");
    }
}

#[test]
fn faults_say_what_and_where() {
    let memory = Words::new(&[0; 64]);
    let fault = |body: &str| run_body(body, 1, 64, &memory).expect_err("a fault");
    let outside = fault("mul.wide.u32 %rd2, %r1, 8; add.s64 %rd2, %rd1, %rd2; st.global.u32 [%rd2], %r1;");
    assert!(
        outside.contains("in no allocation") && outside.contains("st.global.u32 [%rd2], %r1"),
        "{outside}"
    );
    assert!(outside.contains("block [0, 0, 0], warp 1"), "{outside}");
    assert!(fault("ld.global.u32 %r9, [%rd1+2];").contains("not a multiple of 4"));
    assert!(
        fault("mov.u32 %r5, tile; ld.shared.u32 %r9, [%r5+4096];").contains("outside of the block's memory")
    );
    let stuck = fault(
        "setp.lt.u32 %p1, %r1, 32; @%p1 bra over; bar.sync 1, 96;
        over: mov.u32 %r9, 0;",
    );
    assert!(stuck.contains("nobody can go on") && stuck.contains("bar.sync 1, 96"), "{stuck}");
    let apart = fault(
        "setp.lt.u32 %p1, %r1, 7; @%p1 bra over; shfl.sync.bfly.b32 %r9, %r1, 1, 31, -1; over: bar.sync 0;",
    );
    assert!(apart.contains("nobody can go on"), "{apart}");
}

#[test]
fn what_is_not_known_is_named() {
    let text = ".entry k() { .reg .b32 %r<3>; vabsdiff.s32 %r1, %r2, %r2; ret; }";
    let error = Module::parse(text).expect_err("it is not known");
    assert!(error.contains("vabsdiff"), "{error}");
}
