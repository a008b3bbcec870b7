//! From ggml's block formats to `f32`.
//!
//! Every format packs a row in blocks of 32 or 256 numbers: small integers that share a scale `d` (and a minimum `m`), in the K
//! formats a scale per 16 or 32 numbers that is itself a small integer. The layouts are those of `ggml-common.h`, the products are
//! taken in the order of `ggml-quants.c`, so the numbers are the same to the last bit.

use half::{bf16, f16};
use rayon::prelude::*;

use super::types::TensorType;

/// Gives the numbers stored as `kind` in `bytes`, on all cores.
///
/// # Errors
///
/// A message if `kind` cannot be read here, or `bytes` is not a whole number of its blocks.
pub fn dequantize(kind: TensorType, bytes: &[u8]) -> Result<Vec<f32>, String> {
    if !is_readable(kind) {
        return Err(unreadable(kind));
    }
    if !bytes.len().is_multiple_of(kind.block_bytes()) {
        return Err(format!("has {} bytes, which is not a whole number of {kind} blocks", bytes.len()));
    }
    let mut values = vec![0f32; bytes.len() / kind.block_bytes() * kind.block_elements()];
    dequantize_into(kind, bytes, &mut values);
    Ok(values)
}

/// Writes the numbers stored as the [readable](is_readable) `kind` in `bytes` to `values`, on all cores.
pub(super) fn dequantize_into(kind: TensorType, bytes: &[u8], values: &mut [f32]) {
    match kind {
        TensorType::F32 => blocks(bytes, values, |block: &[u8; 4]| [f32::from_le_bytes(*block)]),
        TensorType::F16 => blocks(bytes, values, |block: &[u8; 2]| [f16::from_le_bytes(*block).to_f32()]),
        TensorType::BF16 => blocks(bytes, values, |block: &[u8; 2]| [bf16::from_le_bytes(*block).to_f32()]),
        TensorType::Q4_0 => blocks(bytes, values, q4_0),
        TensorType::Q4_1 => blocks(bytes, values, q4_1),
        TensorType::Q5_0 => blocks(bytes, values, q5_0),
        TensorType::Q5_1 => blocks(bytes, values, q5_1),
        TensorType::Q8_0 => blocks(bytes, values, q8_0),
        TensorType::Q4_K => blocks(bytes, values, q4_k),
        TensorType::Q5_K => blocks(bytes, values, q5_k),
        TensorType::Q6_K => blocks(bytes, values, q6_k),
        _ => {}
    }
}

/// Whether [`dequantize`] reads `kind`.
pub(super) fn is_readable(kind: TensorType) -> bool {
    use TensorType as T;
    [T::F32, T::F16, T::BF16, T::Q4_0, T::Q4_1, T::Q5_0, T::Q5_1, T::Q8_0, T::Q4_K, T::Q5_K, T::Q6_K].contains(&kind)
}

/// What to say of a type that [`dequantize`] does not read.
pub(super) fn unreadable(kind: TensorType) -> String {
    format!(
        "is stored as {kind}, which cannot be read; take a file of F32, F16, BF16, Q8_0, Q4_0, Q4_1, Q5_0, Q5_1, Q4_K, Q5_K or Q6_K, \
         e.g. made with `llama-quantize --allow-requantize IN.gguf OUT.gguf q8_0`"
    )
}

/// Numbers a task gets at least; smaller ones cost more to hand out than to do.
const TASK_ELEMENTS: usize = 1 << 14;

fn blocks<const BYTES: usize, const LEN: usize>(bytes: &[u8], values: &mut [f32], one: impl Fn(&[u8; BYTES]) -> [f32; LEN] + Sync) {
    let (blocks, _) = bytes.as_chunks::<BYTES>();
    let (chunks, _) = values.as_chunks_mut::<LEN>();
    chunks.par_iter_mut().with_min_len(TASK_ELEMENTS / LEN).zip(blocks).for_each(|(chunk, block)| *chunk = one(block));
}

fn half(bytes: &[u8], at: usize) -> f32 {
    f16::from_le_bytes([bytes[at], bytes[at + 1]]).to_f32()
}

/// Low and high half of a byte.
fn nibbles(byte: u8) -> (u8, u8) {
    (byte & 0x0F, byte >> 4)
}

fn q4_0(block: &[u8; 18]) -> [f32; 32] {
    let d = half(block, 0);
    let mut out = [0f32; 32];
    for (j, byte) in block[2..].iter().enumerate() {
        let (low, high) = nibbles(*byte);
        out[j] = (f32::from(low) - 8.0) * d;
        out[j + 16] = (f32::from(high) - 8.0) * d;
    }
    out
}

fn q4_1(block: &[u8; 20]) -> [f32; 32] {
    let (d, m) = (half(block, 0), half(block, 2));
    let mut out = [0f32; 32];
    for (j, byte) in block[4..].iter().enumerate() {
        let (low, high) = nibbles(*byte);
        out[j] = f32::from(low) * d + m;
        out[j + 16] = f32::from(high) * d + m;
    }
    out
}

/// The 32 numbers of 5 bits: four in `quants`, the fifth in `fifth`.
fn five_bits(fifth: &[u8], quants: &[u8]) -> [u8; 32] {
    let fifth = u32::from_le_bytes([fifth[0], fifth[1], fifth[2], fifth[3]]);
    let bit = |j: usize| if fifth >> j & 1 == 1 { 16 } else { 0 };
    let mut out = [0u8; 32];
    for (j, byte) in quants.iter().enumerate() {
        let (low, high) = nibbles(*byte);
        out[j] = low | bit(j);
        out[j + 16] = high | bit(j + 16);
    }
    out
}

fn q5_0(block: &[u8; 22]) -> [f32; 32] {
    let d = half(block, 0);
    five_bits(&block[2..6], &block[6..]).map(|q| (f32::from(q) - 16.0) * d)
}

fn q5_1(block: &[u8; 24]) -> [f32; 32] {
    let (d, m) = (half(block, 0), half(block, 2));
    five_bits(&block[4..8], &block[8..]).map(|q| f32::from(q) * d + m)
}

fn q8_0(block: &[u8; 34]) -> [f32; 32] {
    let d = half(block, 0);
    let mut out = [0f32; 32];
    for (value, byte) in out.iter_mut().zip(&block[2..]) {
        *value = f32::from(*byte as i8) * d;
    }
    out
}

/// Scale and minimum number `j` of the eight that a K block packs in 12 bytes, 6 bits each.
fn scale_and_min(packed: &[u8], j: usize) -> (f32, f32) {
    let (scale, min) = if j < 4 {
        (packed[j] & 63, packed[j + 4] & 63)
    } else {
        (packed[j + 4] & 0x0F | (packed[j - 4] >> 6) << 4, packed[j + 4] >> 4 | (packed[j] >> 6) << 4)
    };
    (f32::from(scale), f32::from(min))
}

/// Q4_K and Q5_K: 8 runs of 32 numbers; a run's fifth bits, if there are any, are one bit of each of 32 bytes.
fn runs(d: f32, dmin: f32, packed: &[u8], fifth: Option<&[u8]>, quants: &[u8]) -> [f32; 256] {
    let mut out = [0f32; 256];
    for (run, values) in out.chunks_exact_mut(32).enumerate() {
        let (scale, min) = scale_and_min(packed, run);
        let (scale, min) = (d * scale, dmin * min);
        let quants = &quants[run / 2 * 32..][..32];
        for (j, value) in values.iter_mut().enumerate() {
            let (low, high) = nibbles(quants[j]);
            let four = if run % 2 == 0 { low } else { high };
            let five = fifth.map_or(0, |fifth| (fifth[j] >> run & 1) << 4);
            *value = scale * f32::from(four | five) - min;
        }
    }
    out
}

fn q4_k(block: &[u8; 144]) -> [f32; 256] {
    runs(half(block, 0), half(block, 2), &block[4..16], None, &block[16..])
}

fn q5_k(block: &[u8; 176]) -> [f32; 256] {
    runs(half(block, 0), half(block, 2), &block[4..16], Some(&block[16..48]), &block[48..])
}

fn q6_k(block: &[u8; 210]) -> [f32; 256] {
    let (lows, highs, scales, d) = (&block[..128], &block[128..192], &block[192..208], half(block, 208));
    let mut out = [0f32; 256];
    for (index, value) in out.iter_mut().enumerate() {
        // Two halves of 128 numbers; in each, four quarters of 32 share the bytes of 64 low and 32 high ones.
        let (part, quarter, j) = (index / 128, index / 32 % 4, index % 32);
        let (low, high) = nibbles(lows[part * 64 + quarter % 2 * 32 + j]);
        let four = if quarter < 2 { low } else { high };
        let two = highs[part * 32 + j] >> (2 * quarter) & 3;
        let scale = f32::from(scales[index / 16] as i8);
        *value = d * scale * (f32::from(four | two << 4) - 32.0);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn f16_bytes(value: f32) -> [u8; 2] {
        f16::from_f32(value).to_le_bytes()
    }

    fn of(kind: TensorType, parts: &[&[u8]]) -> Vec<f32> {
        dequantize(kind, &parts.concat()).unwrap()
    }

    #[test]
    fn plain_numbers() {
        assert_eq!(of(TensorType::F32, &[&1.5f32.to_le_bytes(), &(-2f32).to_le_bytes()]), [1.5, -2.0]);
        assert_eq!(of(TensorType::F16, &[&f16_bytes(0.25), &f16_bytes(-3.0)]), [0.25, -3.0]);
        assert_eq!(of(TensorType::BF16, &[&[0x80, 0x3F], &[0x20, 0xC1]]), [1.0, -10.0]);
    }

    #[test]
    fn q4_0_is_centred_on_8() {
        let mut quants = [0x88u8; 16];
        quants[0] = 0xF0; // number 0 is 0 -> -8, number 16 is 15 -> 7
        quants[3] = 0x29; // number 3 is 9 -> 1, number 19 is 2 -> -6
        let values = of(TensorType::Q4_0, &[&f16_bytes(0.5), &quants]);
        assert_eq!((values[0], values[16], values[3], values[19], values[1]), (-4.0, 3.5, 0.5, -3.0, 0.0));
    }

    #[test]
    fn q4_1_has_a_minimum() {
        let mut quants = [0u8; 16];
        quants[15] = 0xA3;
        let values = of(TensorType::Q4_1, &[&f16_bytes(0.25), &f16_bytes(-1.0), &quants]);
        assert_eq!((values[15], values[31], values[0]), (3.0 * 0.25 - 1.0, 10.0 * 0.25 - 1.0, -1.0));
    }

    #[test]
    fn q5_takes_its_fifth_bit_from_the_word() {
        let mut quants = [0u8; 16];
        quants[2] = 0x71; // number 2 is 1, number 18 is 7
        let fifth = (1u32 << 2 | 1 << 31).to_le_bytes(); // number 2 becomes 17, number 31 becomes 16
        let values = of(TensorType::Q5_0, &[&f16_bytes(2.0), &fifth, &quants]);
        assert_eq!((values[2], values[18], values[31], values[0]), (2.0, -18.0, 0.0, -32.0));
        let values = of(TensorType::Q5_1, &[&f16_bytes(2.0), &f16_bytes(0.5), &fifth, &quants]);
        assert_eq!((values[2], values[18], values[31], values[0]), (34.5, 14.5, 32.5, 0.5));
    }

    #[test]
    fn q8_0_is_signed() {
        let mut quants = [0u8; 32];
        (quants[0], quants[31]) = (0x80, 127);
        let values = of(TensorType::Q8_0, &[&f16_bytes(0.5), &quants]);
        assert_eq!((values[0], values[31], values[5]), (-64.0, 63.5, 0.0));
    }

    /// Scales 1..=8 with the high bits of 5 set to 33, minima 0 but for run 6, which has 49.
    fn packed_scales() -> [u8; 12] {
        let mut packed = [0u8; 12];
        packed[..4].copy_from_slice(&[1, 2 | 0b10 << 6, 3, 4]); // run 5's upper bits come from byte 1: 0b10 -> 32
        packed[8..].copy_from_slice(&[5, 1, 7 | 1 << 4, 8]); // low bits of runs 4 to 7; run 6's minimum has low bits 1
        packed[6] = 0b11 << 6; // upper bits of run 6's minimum: 48
        packed
    }

    #[test]
    fn q4_k_unpacks_scales_and_minima() {
        let mut quants = [0u8; 128];
        quants[0] = 0x53; // run 0 number 0 is 3; run 1 number 0 is 5
        quants[2 * 32 + 31] = 0x64; // run 4 number 31 is 4; run 5 number 31 is 6
        quants[3 * 32] = 0x12; // run 6 number 0 is 2; run 7 number 0 is 1
        let values = of(TensorType::Q4_K, &[&f16_bytes(0.5), &f16_bytes(0.25), &packed_scales(), &quants]);
        assert_eq!((values[0], values[32]), (0.5 * 1.0 * 3.0, 0.5 * 2.0 * 5.0));
        assert_eq!((values[4 * 32 + 31], values[5 * 32 + 31]), (0.5 * 5.0 * 4.0, 0.5 * 33.0 * 6.0));
        assert_eq!((values[6 * 32], values[7 * 32], values[6 * 32 + 1]), (0.5 * 7.0 * 2.0 - 0.25 * 49.0, 4.0, -0.25 * 49.0));
    }

    #[test]
    fn q5_k_adds_a_bit_per_run() {
        let mut quants = [0u8; 128];
        quants[0] = 0x53;
        let mut fifth = [0u8; 32];
        fifth[0] = 0b0000_0010; // run 1 number 0: 5 + 16
        fifth[9] = 0b1000_0000; // run 7 number 9: 16
        let values = of(TensorType::Q5_K, &[&f16_bytes(0.5), &f16_bytes(0.25), &packed_scales(), &fifth, &quants]);
        assert_eq!((values[0], values[32], values[7 * 32 + 9]), (1.5, 0.5 * 2.0 * 21.0, 0.5 * 8.0 * 16.0));
    }

    #[test]
    fn q6_k_joins_four_and_two_bits() {
        let mut lows = [0u8; 128];
        lows[1] = 0x2F; // numbers 1 (15) and 65 (2)
        lows[32 + 1] = 0x43; // numbers 33 (3) and 97 (4)
        lows[64 + 31] = 0x01; // number 128 + 31 (1)
        let mut highs = [0u8; 64];
        highs[1] = 0b11_10_01_00; // numbers 1: 0, 33: 1, 65: 2, 97: 3
        highs[32 + 31] = 0b10; // number 159: 2
        let mut scales = [1u8; 16];
        scales[2] = 3; // numbers 32 to 47
        scales[9] = 0xFE; // numbers 144 to 159: -2
        let values = of(TensorType::Q6_K, &[&lows, &highs, &scales, &f16_bytes(0.5)]);
        assert_eq!((values[1], values[33]), (0.5 * (15.0 - 32.0), 0.5 * 3.0 * (19.0 - 32.0)));
        assert_eq!((values[65], values[97]), (0.5 * (34.0 - 32.0), 0.5 * (52.0 - 32.0)));
        assert_eq!((values[159], values[0]), (0.5 * -2.0 * (33.0 - 32.0), -16.0));
    }

    #[test]
    fn many_blocks_keep_their_order() {
        let blocks: Vec<u8> = (0..5000u32).flat_map(|i| [&f16_bytes(1.0)[..], &[(i % 100) as u8; 32]].concat()).collect();
        let values = dequantize(TensorType::Q8_0, &blocks).unwrap();
        assert!(values.chunks(32).enumerate().all(|(i, block)| block.iter().all(|v| *v == (i % 100) as f32)));
    }

    #[test]
    fn other_types_and_torn_blocks_are_errors() {
        let message = dequantize(TensorType::IQ2_XS, &[0; 74]).unwrap_err();
        assert!(message.contains("IQ2_XS") && message.contains("Q8_0"), "{message}");
        assert!(!is_readable(TensorType::IQ2_XS) && is_readable(TensorType::Q4_K));
        assert!(dequantize(TensorType::Q8_0, &[0; 35]).unwrap_err().contains("35 bytes"));
    }
}
