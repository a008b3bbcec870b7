//! What methods share that train weights by gradient descent.
//!
//! A [`TrainingRow`] says what is run and which tokens are to be predicted where; a [`TargetLoss`] is the loss of a batch of them, with
//! all that training cannot change computed once; a [`TensorAdam`] steps from a gradient. Which tensors are trained, and how the model's
//! weights follow from them, is the method's: it puts tracked weights into a clone of the model and asks for the loss.

mod loss;
mod row;
mod tensor_adam;

pub use loss::{LossPass, TargetLoss};
pub use row::TrainingRow;
pub use tensor_adam::TensorAdam;
