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
        "cuda" => present(name, "an NVIDIA GPU and its driver (libcuda)", || Ok(Device::cuda(index))),
        #[cfg(feature = "wgpu")]
        "wgpu" => present(name, "a graphics driver (Vulkan, Metal, DirectX 12 or OpenGL)", wgpu),
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

/// The adapter that the system prefers; it is set up once and then shared.
#[cfg(feature = "wgpu")]
fn wgpu() -> std::result::Result<Device, String> {
    static ADAPTER: std::sync::OnceLock<std::result::Result<Device, String>> = std::sync::OnceLock::new();
    ADAPTER.get_or_init(|| Device::wgpu_options().init().map_err(|error| error.to_string())).clone()
}

/// The device that `open` gives, if it can hold a number and give it back. Backends panic where there is no driver, some of them in
/// threads of their own: that is an error here, and nothing of it is printed.
#[cfg(any(feature = "cuda", feature = "wgpu", test))]
fn present(name: &str, needs: &str, open: impl FnOnce() -> std::result::Result<Device, String>) -> Result<Device> {
    let opened = quietly(|| {
        let device = open()?;
        let number = burn::tensor::Tensor::<1>::ones([1], &device) + 1.0;
        match number.try_into_data().map(|data| data.try_to_vec::<f32>()) {
            Ok(Ok(numbers)) if numbers == [2.0] => Ok(device),
            Ok(found) => Err(format!("it computes 1 + 1 = {found:?}")),
            Err(error) => Err(error.to_string()),
        }
    });
    opened.map_err(|reason| {
        let reason = reason.lines().next().unwrap_or_default().trim().trim_end_matches('.').to_owned();
        Error::Device(format!("device {name:?} is not present on this machine: it needs {needs} ({reason}); use --device cpu instead"))
    })
}

/// Runs `action`; a panic becomes an error that holds its message.
#[cfg(any(feature = "cuda", feature = "wgpu", test))]
fn quietly<T>(action: impl FnOnce() -> std::result::Result<T, String>) -> std::result::Result<T, String> {
    // The hook is the whole process's: two that exchange it at once would keep the silent one.
    static EXCHANGE: std::sync::Mutex<()> = std::sync::Mutex::new(());
    let exchange = EXCHANGE.lock();
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| {}));
    let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(action));
    std::panic::set_hook(hook);
    drop(exchange);
    outcome.unwrap_or_else(|payload| {
        let text = payload.downcast_ref::<String>().map(String::as_str).or_else(|| payload.downcast_ref::<&str>().copied());
        Err(text.unwrap_or("the driver failed").to_owned())
    })
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

    #[test]
    fn a_device_that_panics_or_fails_is_not_present() {
        let panics: fn() -> std::result::Result<Device, String> = || panic!("no driver at {}", "all");
        for open in [panics, || panic!("no driver at all"), || Err("no driver at all".into())] {
            let message = present("cuda:0", "a GPU", open).map(|_| ()).unwrap_err().to_string();
            assert!(message.contains("cuda:0") && message.contains("no driver at all") && message.contains("--device cpu"), "{message}");
        }
        assert!(present("cpu", "nothing", || select("cpu").map_err(|e| e.to_string())).is_ok());
    }

    /// Whatever the machine has: a device that computes, or an error that says what is missing.
    #[cfg(any(feature = "cuda", feature = "wgpu"))]
    #[test]
    fn a_device_that_is_compiled_in_is_there_or_an_error() {
        for name in COMPILED {
            for _ in 0..2 {
                match select(name) {
                    Ok(device) => assert!(burn::tensor::Tensor::<1>::ones([3], &device).sum().try_into_scalar::<f32>().is_ok()),
                    Err(error) => assert!(error.to_string().contains("it needs"), "{error}"),
                }
            }
        }
    }

    #[cfg(not(feature = "cuda"))]
    #[test]
    fn a_backend_left_out_says_how_to_get_it() {
        let message = select("cuda:0").map(|_| ()).unwrap_err().to_string();
        assert!(message.contains("--features cuda"), "{message}");
    }
}
