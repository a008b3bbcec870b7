use burn::tensor::TensorData;
use easyedit_core::WeightType;
use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};

/// A tensor's numbers, row-major, in the type they are stored in.
#[derive(Clone, Debug, PartialEq)]
pub enum StoredValues {
    /// IEEE 754 binary32.
    F32(Vec<f32>),
    /// IEEE 754 binary16.
    F16(Vec<f16>),
    /// The upper half of binary32.
    Bf16(Vec<bf16>),
}

impl StoredValues {
    /// So many zeros.
    pub(crate) fn zeros(kind: WeightType, count: usize) -> Self {
        match kind {
            WeightType::F32 => Self::F32(vec![0.0; count]),
            WeightType::F16 => Self::F16(vec![f16::ZERO; count]),
            WeightType::Bf16 => Self::Bf16(vec![bf16::ZERO; count]),
        }
    }

    /// The type of the numbers.
    pub fn kind(&self) -> WeightType {
        match self {
            Self::F32(_) => WeightType::F32,
            Self::F16(_) => WeightType::F16,
            Self::Bf16(_) => WeightType::Bf16,
        }
    }

    /// The same numbers as `f32`.
    pub fn into_f32(self) -> Vec<f32> {
        match self {
            Self::F32(values) => values,
            Self::F16(values) => values.to_f32_vec(),
            Self::Bf16(values) => values.to_f32_vec(),
        }
    }

    /// The place of the first number that is not finite, and the number.
    pub(crate) fn first_not_finite(&self) -> Option<(usize, f32)> {
        fn first<T: Copy>(values: &[T], number: impl Fn(T) -> f32) -> Option<(usize, f32)> {
            values.iter().map(|value| number(*value)).enumerate().find(|(_, value)| !value.is_finite())
        }
        match self {
            Self::F32(values) => first(values, |value| value),
            Self::F16(values) => first(values, f16::to_f32),
            Self::Bf16(values) => first(values, bf16::to_f32),
        }
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        match self {
            Self::F32(values) => values.len(),
            Self::F16(values) => values.len(),
            Self::Bf16(values) => values.len(),
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// As a tensor's data of this shape, in the same type.
    pub(crate) fn into_data<const D: usize>(self, shape: [usize; D]) -> TensorData {
        match self {
            Self::F32(values) => TensorData::new(values, shape),
            Self::F16(values) => TensorData::new(values, shape),
            Self::Bf16(values) => TensorData::new(values, shape),
        }
    }
}
