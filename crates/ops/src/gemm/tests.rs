//! Every kernel against a sum in f64, at sizes that leave every kind of remainder.

use super::*;
use crate::Rng;
use crate::cpu::{Isa, SharedMut};
use crate::element::Bf16;
use crate::testing::relative_error;

struct Store<'a> {
    out: SharedMut<'a, f32>,
    columns: usize,
}

impl Epilogue for Store<'_> {
    #[inline(always)]
    fn tile<S: Simd>(&self, tile: &Tile<'_>) {
        for (i, values) in tile.values.iter().enumerate() {
            // SAFETY: tiles do not overlap.
            let out = unsafe { self.out.slice((tile.row + i) * self.columns + tile.col, tile.cols) };
            out.copy_from_slice(&values[..tile.cols]);
        }
    }
}

fn random<E: Word>(rng: &mut Rng, len: usize) -> Vec<E> {
    (0..len).map(|_| E::from_f32(rng.normal() as f32)).collect()
}

fn check<E: Word>(isa: Isa, threads: usize, m: usize, n: usize, k: usize) -> Vec<f32> {
    let cpu = Cpu::<E>::with(isa, threads);
    let mut rng = Rng::new((m * 31 + n * 7 + k) as u64);
    let (a, b) = (random::<E>(&mut rng, m * k), random::<E>(&mut rng, k * n));
    let transposed = |x: &[E], rows: usize, columns: usize| -> Vec<E> {
        (0..rows * columns).map(|i| x[i % rows * columns + i / rows]).collect()
    };
    let (at, bt) = (transposed(&a, m, k), transposed(&b, k, n));
    let want: Vec<f32> = (0..m * n)
        .map(|i| {
            (0..k)
                .map(|j| f64::from(a[i / n * k + j].to_f32()) * f64::from(b[j * n + i % n].to_f32()))
                .sum::<f64>()
        })
        .map(|x| x as f32)
        .collect();
    let mut words = vec![u32::MAX; Packed::num_words::<E>(k, n)];
    let mut a_words = vec![u32::MAX; LhsPanels::num_words::<E>(m, k)];
    let mut out = vec![f32::NAN; m * n];
    let mut results = Vec::new();
    for by_rows in [true, false] {
        let packed = if by_rows {
            let mut sums = vec![1.0; n];
            let packed = pack_rhs_rows(&cpu, &mut words, &b, k, n, Some(&mut sums));
            let want: Vec<f32> =
                (0..n).map(|j| 1.0 + (0..k).map(|i| b[i * n + j].to_f32()).sum::<f32>()).collect();
            assert!(relative_error(&sums, &want) < 1e-5);
            packed
        } else {
            pack_rhs_columns(&cpu, &mut words, &bt, k, n)
        };
        let mut both = [vec![u32::MAX; packed.words.len()], vec![u32::MAX; Packed::num_words::<E>(n, k)]];
        let [one, two] = &mut both;
        match by_rows {
            true => pack_rhs_both(&cpu, one, two, &b, k, n),
            false => pack_rhs_both(&cpu, two, one, &bt, n, k),
        }
        assert!(both[0] == packed.words, "both directions at once are each alone");
        let mut lhs = vec![Lhs::Panels(pack_lhs_transposed(&cpu, &mut a_words, &at, k, m, m))];
        if k.is_multiple_of(E::PER_WORD) {
            lhs.push(Lhs::Rows { elements: &a, stride: k });
        }
        for lhs in lhs {
            out.fill(f32::NAN);
            gemm(&cpu, m, lhs, packed, &Store { out: SharedMut::new(&mut out), columns: n });
            let error = relative_error(&out, &want);
            assert!(error < 1e-6, "{isa} {} m {m} n {n} k {k}: {error:e}", E::NAME);
            results.push(out.clone());
        }
    }
    assert!(results.iter().all(|r| r == &results[0]), "the layout of the operands changes no bit");
    results.swap_remove(0)
}

fn check_all<E: Word>() {
    for isa in Isa::ALL.into_iter().filter(|isa| isa.is_available()) {
        for m in (1..=15).chain([28, 29, 230]) {
            for (n, k) in [(1, 1), (31, 2), (32, 7), (33, 16), (70, 33), (40, 1103), (33, 2048), (9, 2570)] {
                let one = check::<E>(isa, 1, m, n, k);
                if m == 15 || m == 230 {
                    assert_eq!(one, check::<E>(isa, 3, m, n, k), "threads change no bit");
                }
            }
        }
    }
}

#[test]
fn f32_at_odd_sizes() {
    check_all::<f32>();
}

#[test]
fn bf16_at_odd_sizes() {
    check_all::<Bf16>();
}

#[test]
fn rounding_by_chance_comes_before_packing() {
    for isa in Isa::ALL.into_iter().filter(|isa| isa.is_available()) {
        for (rows, columns, threads) in [(1, 1, 1), (31, 2, 3), (33, 45, 1), (70, 33, 3), (129, 64, 2)] {
            let cpu = Cpu::<Bf16>::with(isa, threads);
            let source = random::<f32>(&mut Rng::new(rows as u64), rows * columns);
            let rounded = source.iter().enumerate();
            let rounded: Vec<f32> =
                rounded.map(|(i, x)| crate::rounding::reference(*x, 77, i as u32)).collect();
            let words = |k, n| vec![u32::MAX; Packed::num_words::<Bf16>(k, n)];
            let [mut got, mut want] = [(); 2].map(|()| [words(rows, columns), words(columns, rows)]);
            let [one, two] = &mut got;
            pack_rhs_both_by_chance(&cpu, one, two, &source, rows, columns, 77);
            let [one, two] = &mut want;
            pack_rhs_both(&cpu, one, two, &rounded, rows, columns);
            assert!(got == want, "{isa}: {rows} x {columns}");
        }
    }
}
