use std::ops::Range;

use burn::backend::Flex;
use burn::backend::tensor::FloatTensor;
use burn::tensor::DType;

use crate::WeightLayout;

/// A matrix as it lies in memory: rows of contiguous numbers, at equal distances.
#[derive(Clone, Copy, Debug)]
pub(super) struct Matrix<'a> {
    /// From the first number of the first row on.
    values: &'a [f32],
    rows: usize,
    width: usize,
    /// Numbers from the start of a row to that of the next.
    stride: usize,
}

impl<'a> Matrix<'a> {
    /// The numbers of a tensor; `None` if they are not `f32`, or its rows are not contiguous.
    pub(super) fn of(tensor: &'a FloatTensor<Flex>) -> Option<Self> {
        let layout = tensor.layout();
        let (&[rows, width], &[stride, step]) = (layout.shape().as_slice(), layout.strides()) else { return None };
        let stride = usize::try_from(stride).ok()?;
        if tensor.dtype() != DType::F32 || (step != 1 && width > 1) || rows == 0 || width == 0 {
            return None;
        }
        let values = tensor.storage::<f32>().get(layout.start_offset()..)?;
        (values.len() >= (rows - 1) * stride + width).then_some(Self { values, rows, width, stride })
    }

    /// A matrix of rows of this width, one behind the other.
    pub(super) fn contiguous(values: &'a [f32], width: usize) -> Self {
        Self { values, rows: values.len() / width, width, stride: width }
    }

    pub(super) fn rows(&self) -> usize {
        self.rows
    }

    pub(super) fn width(&self) -> usize {
        self.width
    }

    #[inline(always)]
    pub(super) fn row(&self, row: usize) -> &'a [f32] {
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

/// A weight as it lies in memory.
#[derive(Clone, Copy, Debug)]
pub(super) struct Weight<'a> {
    pub(super) matrix: Matrix<'a>,
    pub(super) layout: WeightLayout,
}

impl Weight<'_> {
    /// Numbers that a row is made of.
    pub(super) fn inputs(&self) -> usize {
        match self.layout {
            WeightLayout::OutIn => self.matrix.width,
            WeightLayout::InOut => self.matrix.rows,
        }
    }

    /// Numbers that a row becomes.
    pub(super) fn outputs(&self) -> usize {
        match self.layout {
            WeightLayout::OutIn => self.matrix.rows,
            WeightLayout::InOut => self.matrix.width,
        }
    }

    /// What makes the outputs `range`.
    pub(super) fn of_outputs(self, range: Range<usize>) -> Self {
        let matrix = match self.layout {
            WeightLayout::OutIn => self.matrix.of_rows(range),
            WeightLayout::InOut => self.matrix.of_columns(range),
        };
        Self { matrix, ..self }
    }

    /// Where it lies.
    pub(super) fn place(&self) -> Place {
        let Matrix { values, rows, width, stride } = self.matrix;
        Place { address: values.as_ptr() as usize, rows, width, stride, layout: self.layout }
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
