use std::ops::Range;

use burn::backend::Flex;
use burn::backend::tensor::FloatTensor;
use burn::tensor::Element;
use bytemuck::Pod;
use half::{bf16, f16};

use crate::WeightLayout;

/// A matrix as it lies in memory: rows of contiguous numbers, at equal distances.
#[derive(Clone, Copy, Debug)]
pub(super) struct Matrix<'a, T = f32> {
    /// From the first number of the first row on.
    values: &'a [T],
    rows: usize,
    width: usize,
    /// Numbers from the start of a row to that of the next.
    stride: usize,
}

impl<'a, T: Element + Pod> Matrix<'a, T> {
    /// The numbers of a tensor; `None` if they are of another type, or its rows are not contiguous.
    pub(super) fn of(tensor: &'a FloatTensor<Flex>) -> Option<Self> {
        let layout = tensor.layout();
        let (&[rows, width], &[stride, step]) = (layout.shape().as_slice(), layout.strides()) else { return None };
        let stride = usize::try_from(stride).ok()?;
        if tensor.dtype() != T::dtype() || (step != 1 && width > 1) || rows == 0 || width == 0 {
            return None;
        }
        let values = tensor.storage::<T>().get(layout.start_offset()..)?;
        (values.len() >= (rows - 1) * stride + width).then_some(Self { values, rows, width, stride })
    }

    /// A matrix of rows of this width, one behind the other.
    pub(super) fn contiguous(values: &'a [T], width: usize) -> Self {
        Self { values, rows: values.len() / width, width, stride: width }
    }

    pub(super) fn rows(&self) -> usize {
        self.rows
    }

    pub(super) fn width(&self) -> usize {
        self.width
    }

    #[inline(always)]
    pub(super) fn row(&self, row: usize) -> &'a [T] {
        &self.values[row * self.stride..][..self.width]
    }

    pub(super) fn of_rows(self, range: Range<usize>) -> Self {
        let start = (range.start * self.stride).min(self.values.len());
        Self { values: &self.values[start..], rows: range.len(), ..self }
    }

    pub(super) fn of_columns(self, range: Range<usize>) -> Self {
        Self { values: &self.values[range.start..], width: range.len(), ..self }
    }
}

/// The numbers of a weight, in the type they are stored in.
#[derive(Clone, Copy, Debug)]
pub(super) enum Numbers<'a> {
    F32(Matrix<'a>),
    F16(Matrix<'a, f16>),
    Bf16(Matrix<'a, bf16>),
}

/// The same of whatever type the numbers are of.
macro_rules! of_any {
    ($numbers:expr, $matrix:ident => $result:expr) => {
        match $numbers {
            Numbers::F32($matrix) => $result,
            Numbers::F16($matrix) => $result,
            Numbers::Bf16($matrix) => $result,
        }
    };
}

/// The same part of whatever type the numbers are of.
macro_rules! part_of_any {
    ($numbers:expr, $matrix:ident => $part:expr) => {
        match $numbers {
            Numbers::F32($matrix) => Numbers::F32($part),
            Numbers::F16($matrix) => Numbers::F16($part),
            Numbers::Bf16($matrix) => Numbers::Bf16($part),
        }
    };
}

impl<'a> Numbers<'a> {
    /// The numbers of a tensor; `None` if they are of a type that no weight has, or its rows are not contiguous.
    pub(super) fn of(tensor: &'a FloatTensor<Flex>) -> Option<Self> {
        let f32s = Matrix::of(tensor).map(Self::F32);
        f32s.or_else(|| Matrix::of(tensor).map(Self::F16)).or_else(|| Matrix::of(tensor).map(Self::Bf16))
    }

    pub(super) fn rows(&self) -> usize {
        of_any!(self, matrix => matrix.rows())
    }

    pub(super) fn width(&self) -> usize {
        of_any!(self, matrix => matrix.width())
    }

    pub(super) fn of_rows(self, range: Range<usize>) -> Self {
        part_of_any!(self, matrix => matrix.of_rows(range))
    }

    fn of_columns(self, range: Range<usize>) -> Self {
        part_of_any!(self, matrix => matrix.of_columns(range))
    }
}

/// A weight as it lies in memory.
#[derive(Clone, Copy, Debug)]
pub(super) struct Weight<'a> {
    pub(super) numbers: Numbers<'a>,
    pub(super) layout: WeightLayout,
}

impl Weight<'_> {
    /// Numbers that a row is made of.
    pub(super) fn inputs(&self) -> usize {
        match self.layout {
            WeightLayout::OutIn => self.numbers.width(),
            WeightLayout::InOut => self.numbers.rows(),
        }
    }

    /// Numbers that a row becomes.
    pub(super) fn outputs(&self) -> usize {
        match self.layout {
            WeightLayout::OutIn => self.numbers.rows(),
            WeightLayout::InOut => self.numbers.width(),
        }
    }

    /// What makes the outputs `range`.
    pub(super) fn of_outputs(self, range: Range<usize>) -> Self {
        let numbers = match self.layout {
            WeightLayout::OutIn => self.numbers.of_rows(range),
            WeightLayout::InOut => self.numbers.of_columns(range),
        };
        Self { numbers, ..self }
    }

    /// Where it lies.
    pub(super) fn place(&self) -> Place {
        let (address, stride) = of_any!(self.numbers, matrix => (matrix.values.as_ptr() as usize, matrix.stride));
        Place { address, rows: self.numbers.rows(), width: self.numbers.width(), stride, layout: self.layout }
    }
}

/// Where a weight lies: two that exist at the same time in the same place are the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    address: usize,
    rows: usize,
    width: usize,
    stride: usize,
    layout: WeightLayout,
}

impl Place {
    /// How many numbers lie there.
    pub(super) fn numbers(&self) -> usize {
        self.rows * self.width
    }
}
