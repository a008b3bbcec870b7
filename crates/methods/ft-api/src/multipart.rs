//! `multipart/form-data` (RFC 7578), as the upload of a file asks for.

use sha2::{Digest, Sha256};

use crate::training::hex;

/// A form with the purpose of an upload and its file.
#[derive(Clone, Debug)]
pub(crate) struct Form {
    /// Value of the header `Content-Type`.
    pub(crate) content_type: String,
    pub(crate) body: Vec<u8>,
}

impl Form {
    /// The form; `name` is the file's, without quotes or line ends.
    pub(crate) fn new(purpose: &str, name: &str, content: &[u8]) -> Self {
        let boundary = boundary(content);
        let mut body = Vec::with_capacity(content.len() + 512);
        body.extend_from_slice(
            format!(
                "--{boundary}\r\nContent-Disposition: form-data; name=\"purpose\"\r\n\r\n{purpose}\r\n\
                 --{boundary}\r\nContent-Disposition: form-data; name=\"file\"; filename=\"{name}\"\r\n\
                 Content-Type: application/jsonl\r\n\r\n"
            )
            .as_bytes(),
        );
        body.extend_from_slice(content);
        body.extend_from_slice(format!("\r\n--{boundary}--\r\n").as_bytes());
        Self { content_type: format!("multipart/form-data; boundary={boundary}"), body }
    }
}

/// A line that does not occur in `content`: its own checksum, drawn on until it is so.
fn boundary(content: &[u8]) -> String {
    let mut digest = Sha256::digest(content);
    loop {
        let boundary = format!("easyedit-{}", hex(digest.get(..16).unwrap_or_default()));
        if !content.windows(boundary.len()).any(|window| window == boundary.as_bytes()) {
            return boundary;
        }
        digest = Sha256::digest(digest);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_stands_unchanged_between_its_boundaries() {
        let form = Form::new("fine-tune", "training.jsonl", b"{}\n{}\n");
        let boundary = form.content_type.strip_prefix("multipart/form-data; boundary=").unwrap();
        let body = String::from_utf8(form.body).unwrap();
        let parts: Vec<&str> = body.split(&format!("--{boundary}")).collect();
        assert_eq!(parts.len(), 4);
        assert!(parts[1].contains("name=\"purpose\"\r\n\r\nfine-tune\r\n"), "{body}");
        assert!(parts[2].ends_with("\r\n\r\n{}\n{}\n\r\n"), "{body}");
        assert_eq!(parts[3], "--\r\n");
    }
}
