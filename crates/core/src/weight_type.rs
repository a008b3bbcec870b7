use burn::tensor::DType;
use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};
use rayon::prelude::*;
use safetensors::Dtype;
use serde::{Deserialize, Serialize};

/// Values converted by one task at a time: small enough to stay in the cache between converting and checking them.
const CHUNK: usize = 1 << 16;

/// How a checkpoint stores a weight's numbers, and a model keeps them in memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum WeightType {
    /// IEEE 754 binary32.
    #[default]
    F32,
    /// IEEE 754 binary16.
    F16,
    /// The upper half of binary32.
    Bf16,
}

impl WeightType {
    /// The type of a safetensors tensor; `None` for those that weights are not computed in here.
    pub fn from_dtype(dtype: Dtype) -> Option<Self> {
        match dtype {
            Dtype::F32 => Some(Self::F32),
            Dtype::F16 => Some(Self::F16),
            Dtype::BF16 => Some(Self::Bf16),
            _ => None,
        }
    }

    /// The same type among those of tensors.
    pub fn of_tensor(self) -> DType {
        match self {
            Self::F32 => DType::F32,
            Self::F16 => DType::F16,
            Self::Bf16 => DType::BF16,
        }
    }

    /// Its name in a safetensors header.
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "F32",
            Self::F16 => "F16",
            Self::Bf16 => "BF16",
        }
    }

    /// Bytes of one number.
    pub fn size(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 | Self::Bf16 => 2,
        }
    }

    /// Largest relative error of rounding a number to this type.
    pub fn half_step(self) -> f64 {
        match self {
            Self::F32 => 2f64.powi(-24),
            Self::F16 => 2f64.powi(-11),
            Self::Bf16 => 2f64.powi(-8),
        }
    }

    /// The little-endian numbers in `bytes` as `f32`, and whether all of them are finite. Bytes behind the last whole number are
    /// left out.
    pub fn widen(self, bytes: &[u8]) -> (Vec<f32>, bool) {
        let mut values = vec![0f32; bytes.len() / self.size()];
        let finite = values
            .par_chunks_mut(CHUNK)
            .zip(bytes.par_chunks(CHUNK * self.size()))
            .map(|(values, bytes)| {
                self.widen_into(bytes, values);
                values.iter().fold(true, |finite, v| finite & v.is_finite())
            })
            .reduce(|| true, |a, b| a & b);
        (values, finite)
    }

    /// Writes the little-endian numbers in `bytes` to `values`; the shorter of both ends it.
    pub fn widen_into(self, bytes: &[u8], values: &mut [f32]) {
        match self {
            Self::F32 => {
                for (value, bytes) in values.iter_mut().zip(bytes.as_chunks::<4>().0) {
                    *value = f32::from_le_bytes(*bytes);
                }
            }
            Self::F16 => {
                let mut block = [f16::ZERO; 1024];
                for (values, bytes) in values.chunks_mut(block.len()).zip(bytes.chunks(block.len() * 2)) {
                    for (half, bytes) in block.iter_mut().zip(bytes.as_chunks::<2>().0) {
                        *half = f16::from_le_bytes(*bytes);
                    }
                    if let Some(block) = block.get(..values.len()) {
                        block.convert_to_f32_slice(values);
                    }
                }
            }
            Self::Bf16 => {
                for (value, bytes) in values.iter_mut().zip(bytes.as_chunks::<2>().0) {
                    *value = f32::from_bits(u32::from(u16::from_le_bytes(*bytes)) << 16);
                }
            }
        }
    }

    /// The little-endian bytes of `values` in this type, rounded to nearest, ties to even.
    pub fn narrow(self, values: &[f32]) -> Vec<u8> {
        let mut bytes = vec![0; values.len() * self.size()];
        bytes.par_chunks_mut(CHUNK * self.size()).zip(values.par_chunks(CHUNK)).for_each(|(bytes, values)| match self {
            Self::F32 => {
                for (place, value) in bytes.as_chunks_mut::<4>().0.iter_mut().zip(values) {
                    *place = value.to_le_bytes();
                }
            }
            Self::F16 => {
                for (place, value) in bytes.as_chunks_mut::<2>().0.iter_mut().zip(values) {
                    *place = f16::from_f32(*value).to_le_bytes();
                }
            }
            Self::Bf16 => {
                for (place, value) in bytes.as_chunks_mut::<2>().0.iter_mut().zip(values) {
                    *place = bf16::from_f32(*value).to_le_bytes();
                }
            }
        });
        bytes
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn rounded(kind: WeightType, value: f32) -> f32 {
        kind.widen(&kind.narrow(&[value])).0[0]
    }

    #[test]
    fn ties_round_to_even() {
        // 1 + 2^-8 lies between the bf16 numbers 1 and 1 + 2^-7; 1 + 3 * 2^-8 between 1 + 2^-7 and 1 + 2^-6.
        assert_eq!(rounded(WeightType::Bf16, 1.0 + 1.0 / 256.0), 1.0);
        assert_eq!(rounded(WeightType::Bf16, 1.0 + 3.0 / 256.0), 1.0 + 1.0 / 64.0);
        assert_eq!(rounded(WeightType::Bf16, f32::from_bits(0x3f80_8001)), 1.0 + 1.0 / 128.0);
        assert_eq!(rounded(WeightType::F16, 2049.0), 2048.0);
        assert_eq!(rounded(WeightType::F16, 2051.0), 2052.0);
        assert_eq!(rounded(WeightType::F16, 65519.0), 65504.0);
        assert!(rounded(WeightType::F16, 65520.0).is_infinite());
        assert_eq!(rounded(WeightType::F16, 2f32.powi(-24)), 2f32.powi(-24), "subnormals are kept");
    }

    #[test]
    fn not_finite_numbers_are_noticed_in_any_chunk() {
        for kind in [WeightType::F32, WeightType::F16, WeightType::Bf16] {
            let mut values = vec![0.5f32; 3 * CHUNK + 5];
            assert!(kind.widen(&kind.narrow(&values)).1);
            values[2 * CHUNK + 1] = f32::NAN;
            assert!(!kind.widen(&kind.narrow(&values)).1);
            values[2 * CHUNK + 1] = f32::NEG_INFINITY;
            assert!(!kind.widen(&kind.narrow(&values)).1);
        }
    }

    proptest! {
        #[test]
        fn stored_numbers_come_back_bit_for_bit(bits in proptest::collection::vec(any::<u16>(), 0..3000)) {
            for kind in [WeightType::F16, WeightType::Bf16] {
                let bytes: Vec<u8> = bits.iter().flat_map(|b| b.to_le_bytes()).collect();
                let (values, _) = kind.widen(&bytes);
                prop_assert_eq!(values.len(), bits.len());
                for ((value, old), new) in values.iter().zip(bytes.chunks(2)).zip(kind.narrow(&values).chunks(2)) {
                    prop_assert!(value.is_nan() || old == new, "{:?}: {:?} became {:?}", kind, old, new);
                }
            }
        }
    }
}
