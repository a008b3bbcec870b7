//! Parameters under their checkpoint names: one declaration per module serves reading, replacing and listing.

use burn::tensor::Tensor;
use easyedit_core::{Error, ParamName, Result, nearest_name};

use crate::weight::Weight;

/// A parameter that can be looked at.
pub(crate) enum ParamRef<'a> {
    Weight(&'a Weight),
    Matrix(&'a Tensor<2>),
    Vector(&'a Tensor<1>),
}

/// A parameter that can be replaced.
pub(crate) enum ParamMut<'a> {
    Weight(&'a mut Weight),
    Matrix(&'a mut Tensor<2>),
    Vector(&'a mut Tensor<1>),
}

/// Something with named parameters; names are relative to the `path` it is visited under.
pub(crate) trait Parameters {
    fn visit<'a>(&'a self, path: &str, see: &mut dyn FnMut(&str, ParamRef<'a>));
    fn visit_mut(&mut self, path: &str, see: &mut dyn FnMut(&str, ParamMut<'_>));
}

impl Parameters for Weight {
    fn visit<'a>(&'a self, path: &str, see: &mut dyn FnMut(&str, ParamRef<'a>)) {
        see(path, ParamRef::Weight(self));
    }

    fn visit_mut(&mut self, path: &str, see: &mut dyn FnMut(&str, ParamMut<'_>)) {
        see(path, ParamMut::Weight(self));
    }
}

impl Parameters for Tensor<2> {
    fn visit<'a>(&'a self, path: &str, see: &mut dyn FnMut(&str, ParamRef<'a>)) {
        see(path, ParamRef::Matrix(self));
    }

    fn visit_mut(&mut self, path: &str, see: &mut dyn FnMut(&str, ParamMut<'_>)) {
        see(path, ParamMut::Matrix(self));
    }
}

impl Parameters for Tensor<1> {
    fn visit<'a>(&'a self, path: &str, see: &mut dyn FnMut(&str, ParamRef<'a>)) {
        see(path, ParamRef::Vector(self));
    }

    fn visit_mut(&mut self, path: &str, see: &mut dyn FnMut(&str, ParamMut<'_>)) {
        see(path, ParamMut::Vector(self));
    }
}

impl<P: Parameters> Parameters for Option<P> {
    fn visit<'a>(&'a self, path: &str, see: &mut dyn FnMut(&str, ParamRef<'a>)) {
        if let Some(inner) = self {
            inner.visit(path, see);
        }
    }

    fn visit_mut(&mut self, path: &str, see: &mut dyn FnMut(&str, ParamMut<'_>)) {
        if let Some(inner) = self {
            inner.visit_mut(path, see);
        }
    }
}

impl<P: Parameters> Parameters for Vec<P> {
    fn visit<'a>(&'a self, path: &str, see: &mut dyn FnMut(&str, ParamRef<'a>)) {
        for (index, inner) in self.iter().enumerate() {
            inner.visit(&join(path, &index.to_string()), see);
        }
    }

    fn visit_mut(&mut self, path: &str, see: &mut dyn FnMut(&str, ParamMut<'_>)) {
        for (index, inner) in self.iter_mut().enumerate() {
            inner.visit_mut(&join(path, &index.to_string()), see);
        }
    }
}

/// `path.name`, or `name` at the root.
pub(crate) fn join(path: &str, name: &str) -> String {
    if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") }
}

/// Names of all parameters.
pub(crate) fn names(parameters: &impl Parameters) -> Vec<ParamName> {
    let mut names = Vec::new();
    parameters.visit("", &mut |name, _| names.push(ParamName::from(name)));
    names
}

/// The parameter `name` of `model`; a vector is seen as one row.
pub(crate) fn weight(parameters: &impl Parameters, model: &str, name: &ParamName) -> Result<Tensor<2>> {
    let mut found = None;
    parameters.visit("", &mut |candidate, parameter| {
        if candidate == name.as_str() {
            found = Some(match parameter {
                ParamRef::Weight(weight) => weight.to_f32(),
                ParamRef::Matrix(matrix) => matrix.clone(),
                ParamRef::Vector(vector) => vector.clone().unsqueeze(),
            });
        }
    });
    found.ok_or_else(|| {
        let names = names(parameters);
        let hint = match nearest_name(name.as_str(), names.iter().map(ParamName::as_str)) {
            Some(near) => format!(", did you mean {near}?"),
            None => String::new(),
        };
        Error::tensor(name.as_str(), format!("{model} has no such parameter{hint}"))
    })
}

/// Replaces the parameter `name` of `model` by one of the same shape.
pub(crate) fn set_weight(parameters: &mut impl Parameters, model: &str, name: &ParamName, new: Tensor<2>) -> Result<()> {
    let want = weight(parameters, model, name)?.dims();
    let have = new.dims();
    if want != have {
        return Err(Error::tensor(name.as_str(), format!("has shape {want:?} and cannot be replaced by one of shape {have:?}")));
    }
    parameters.visit_mut("", &mut |candidate, parameter| {
        if candidate == name.as_str() {
            match parameter {
                ParamMut::Weight(weight) => *weight = new.clone().into(),
                ParamMut::Matrix(matrix) => *matrix = new.clone(),
                ParamMut::Vector(vector) => *vector = new.clone().reshape([have[1]]),
            }
        }
    });
    Ok(())
}

/// Declares the named parameters of a struct: `parameters!(Type { "name.in.checkpoint" => field, ... })`.
macro_rules! parameters {
    ($type:ty { $($name:literal => $field:ident),* $(,)? }) => {
        impl $crate::parameters::Parameters for $type {
            fn visit<'a>(&'a self, path: &str, see: &mut dyn FnMut(&str, $crate::parameters::ParamRef<'a>)) {
                $($crate::parameters::Parameters::visit(&self.$field, &$crate::parameters::join(path, $name), see);)*
            }

            fn visit_mut(&mut self, path: &str, see: &mut dyn FnMut(&str, $crate::parameters::ParamMut<'_>)) {
                $($crate::parameters::Parameters::visit_mut(&mut self.$field, &$crate::parameters::join(path, $name), see);)*
            }
        }
    };
}
pub(crate) use parameters;
