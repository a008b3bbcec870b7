//! Choosing the device that tensors live on, at run time.

use burn::tensor::Device;

use crate::{Error, Result};

/// The accepted forms of a device name, for help texts.
pub const DEVICE_FORMS: &str = "cpu, cuda, cuda:N, wgpu or tch";

/// Backends compiled into this binary, by the name that selects them.
pub const COMPILED: &[&str] = &[
    #[cfg(feature = "flex")]
    "cpu",
    #[cfg(feature = "cuda")]
    "cuda",
    #[cfg(feature = "wgpu")]
    "wgpu",
    #[cfg(feature = "tch")]
    "tch",
];

/// Gives the device called `name`: `cpu`, `cuda`, `cuda:N`, `wgpu` or `tch`.
///
/// # Errors
///
/// [`Error::Device`] if the name is unknown, the backend is not compiled in, or no such device is present; the message says how to
/// get it.
pub fn select(name: &str) -> Result<Device> {
    let (kind, index) = match name.split_once(':') {
        Some((kind, index)) => {
            let index = index
                .parse::<usize>()
                .map_err(|_| Error::Device(format!("device {name:?}: {index:?} is not a device number (use {DEVICE_FORMS})")))?;
            (kind, index)
        }
        None => (name, 0),
    };
    if index != 0 && kind != "cuda" {
        return Err(Error::Device(format!("device {name:?}: only cuda takes a device number")));
    }
    match kind {
        #[cfg(feature = "flex")]
        "cpu" => Ok(Device::flex()),
        #[cfg(feature = "cuda")]
        "cuda" => present(Device::cuda(index), name, "an NVIDIA GPU and its driver (libcuda)"),
        #[cfg(feature = "wgpu")]
        "wgpu" => present(Device::vulkan(Default::default()), name, "a Vulkan driver"),
        #[cfg(feature = "tch")]
        #[allow(deprecated)]
        "tch" => Ok(Device::libtorch()),
        #[allow(unreachable_patterns)]
        "cpu" | "cuda" | "wgpu" | "tch" => {
            let feature = if kind == "cpu" { "flex" } else { kind };
            Err(Error::Device(format!(
                "device {name:?} is not compiled into this binary (it has: {}); build with `--features {feature}`",
                COMPILED.join(", ")
            )))
        }
        _ => Err(Error::Device(format!("unknown device {name:?} (use {DEVICE_FORMS})"))),
    }
}

/// Whether `device` computes on the threads of this process, so that work split over threads is work shared.
pub fn is_cpu(device: &Device) -> bool {
    #[cfg(feature = "flex")]
    return *device == Device::flex();
    #[cfg(not(feature = "flex"))]
    {
        let _ = device;
        false
    }
}

/// Runs one operation on `device`: GPU backends panic at the first tensor when there is no driver.
#[cfg(any(feature = "cuda", feature = "wgpu"))]
fn present(device: Device, name: &str, needs: &str) -> Result<Device> {
    let probe = device.clone();
    let works = std::panic::catch_unwind(std::panic::AssertUnwindSafe(move || {
        burn::tensor::Tensor::<1>::ones([1], &probe).try_into_data().is_ok()
    }));
    match works {
        Ok(true) => Ok(device),
        _ => Err(Error::Device(format!("device {name:?} is not present on this machine: it needs {needs}; use --device cpu instead"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_is_compiled_in() {
        assert!(select("cpu").is_ok());
    }

    #[test]
    fn unknown_devices_are_errors_that_name_the_choices() {
        for bad in ["gpu", "cuda:x", "cpu:1", ""] {
            let message = select(bad).map(|_| ()).unwrap_err().to_string();
            assert!(message.contains("cuda") || message.contains("cpu"), "{message}");
        }
    }

    #[cfg(not(feature = "cuda"))]
    #[test]
    fn a_backend_left_out_says_how_to_get_it() {
        let message = select("cuda:0").map(|_| ()).unwrap_err().to_string();
        assert!(message.contains("--features cuda"), "{message}");
    }
}
