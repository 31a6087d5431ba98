//! Archives in a bucket of an object store with the interface of Amazon S3.

use std::fs::File;
use std::io::{self, BufWriter, Read, Write};
use std::path::Path;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use http::{Request, Response, Uri, uri};
use http_body_util::{BodyExt, Full};
use object_store::aws::{AmazonS3, AmazonS3Builder};
use object_store::client::{
    ClientConfigKey, ClientOptions, HttpClient, HttpConnector, HttpError, HttpErrorKind, HttpRequest,
    HttpResponse, HttpResponseBody, HttpService,
};
use object_store::path::Path as Key;
use object_store::{MultipartUpload, ObjectStoreExt};
use tokio::runtime::{Builder, Runtime};

use crate::webhooks::{SenderError, Target};

/// Size of an uploaded part and of a read range, in bytes. S3 permits 10,000 parts of at least 5 MiB.
const PART: usize = 16 * 1024 * 1024;

/// Timeout of a request that transfers one part.
const TIMEOUT: Duration = Duration::from_secs(120);

/// A bucket, or the objects in it with a common prefix.
pub(super) struct Bucket {
    url: String,
    store: AmazonS3,
    prefix: Key,
    runtime: Runtime,
}

impl Bucket {
    /// Opens `s3://BUCKET/PREFIX`. Credentials, region and endpoint are in the environment (`AWS_…`).
    ///
    /// # Errors
    ///
    /// Returns an error for an invalid URL or an invalid environment.
    pub(super) fn open(url: &str) -> Result<Self, String> {
        Self::configured(url, AmazonS3Builder::from_env())
    }

    fn configured(url: &str, builder: AmazonS3Builder) -> Result<Self, String> {
        let parsed: Uri = url.parse().map_err(|error| format!("{url}: {error}"))?;
        let name = parsed.host().filter(|_| parsed.query().is_none());
        let name = name.ok_or_else(|| format!("{url}: expected s3://BUCKET or s3://BUCKET/PREFIX"))?;
        let prefix = Key::from_url_path(parsed.path()).map_err(|error| format!("{url}: {error}"))?;
        let store = builder.with_bucket_name(name).with_http_connector(Connector).build();
        let store = store.map_err(|error| format!("{url}: {error}"))?;
        let runtime =
            Builder::new_current_thread().enable_all().build().map_err(|error| error.to_string())?;
        Ok(Self { url: url.trim_end_matches('/').to_owned(), store, prefix, runtime })
    }

    /// Returns the URL of an object.
    pub(super) fn describe(&self, name: &str) -> String {
        format!("{}/{name}", self.url)
    }

    /// Uploads a file.
    ///
    /// # Errors
    ///
    /// Returns an error if the store did not confirm the whole file. Then the object does not exist.
    pub(super) fn upload(&self, file: &Path, name: &str) -> io::Result<()> {
        let mut file = File::open(file)?;
        self.runtime.block_on(async {
            let mut upload = self.store.put_multipart(&self.key(name)).await?;
            match send_parts(&mut file, &mut *upload).await {
                Ok(()) => Ok(()),
                Err(error) => {
                    // Parts of an upload that cannot be aborted either expire by a rule of the bucket.
                    let _ = upload.abort().await;
                    Err(error)
                }
            }
        })
    }

    /// Downloads an object; returns whether it exists.
    ///
    /// # Errors
    ///
    /// Returns an error if the object was not read or written completely.
    pub(super) fn download(&self, name: &str, out: &mut impl Write) -> io::Result<bool> {
        let key = self.key(name);
        self.runtime.block_on(async {
            let size = match self.store.head(&key).await {
                Ok(found) => found.size,
                Err(object_store::Error::NotFound { .. }) => return Ok(false),
                Err(error) => return Err(error.into()),
            };
            let mut read = 0;
            while read < size {
                let end = size.min(read.saturating_add(PART as u64));
                out.write_all(&self.store.get_range(&key, read..end).await?)?;
                read = end;
            }
            Ok(true)
        })
    }

    /// Downloads an object to a file; returns whether it exists.
    ///
    /// # Errors
    ///
    /// As [`Self::download`]. Then the file does not exist.
    pub(super) fn download_to(&self, name: &str, file: &Path) -> io::Result<bool> {
        let mut out = BufWriter::new(File::create(file)?);
        let found = self.download(name, &mut out).and_then(|found| out.flush().map(|()| found));
        if !matches!(found, Ok(true)) {
            std::fs::remove_file(file)?;
        }
        found
    }

    fn key(&self, name: &str) -> Key {
        self.prefix.clone().join(name)
    }
}

async fn send_parts(file: &mut File, upload: &mut dyn MultipartUpload) -> io::Result<()> {
    loop {
        let mut part = Vec::new();
        let read = Read::by_ref(file).take(PART as u64).read_to_end(&mut part)?;
        if read > 0 {
            upload.put_part(part.into()).await?;
        }
        if read < PART {
            upload.complete().await?;
            return Ok(());
        }
    }
}

/// Sends the requests of the object store with the gateway's TLS stack.
#[derive(Debug)]
struct Connector;

impl HttpConnector for Connector {
    fn connect(&self, options: &ClientOptions) -> object_store::Result<HttpClient> {
        let failed = |error: String| object_store::Error::Generic { store: "S3", source: error.into() };
        let target = Target::new(None, true, TIMEOUT).map_err(failed)?;
        let allow_http =
            options.get_config_value(&ClientConfigKey::AllowHttp).is_some_and(|value| value == "true");
        Ok(HttpClient::new(Service { target, allow_http }))
    }
}

#[derive(Debug)]
struct Service {
    target: Target,
    allow_http: bool,
}

#[async_trait]
impl HttpService for Service {
    async fn call(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        let (head, body) = request.into_parts();
        if !self.allow_http && head.uri.scheme() != Some(&uri::Scheme::HTTPS) {
            let error =
                SenderError::Refused("expected an https:// endpoint, or AWS_ALLOW_HTTP=true".to_owned());
            return Err(HttpError::new(HttpErrorKind::Unknown, error));
        }
        let body = body.collect().await?.to_bytes();
        let sent = self.target.send(Request::from_parts(head, Full::new(body)), 2 * PART).await;
        let (head, body): (_, Bytes) = sent.map_err(http_error)?.into_parts();
        let body = HttpResponseBody::new(Full::new(body).map_err(|never| match never {}));
        Ok(Response::from_parts(head, body))
    }
}

fn http_error(error: SenderError) -> HttpError {
    let kind = match error {
        SenderError::Timeout(_) => HttpErrorKind::Timeout,
        SenderError::Failed(_) => HttpErrorKind::Request,
        SenderError::Private | SenderError::Refused(_) => HttpErrorKind::Unknown,
    };
    HttpError::new(kind, error)
}

#[cfg(test)]
#[path = "../../tests/common/object_store.rs"]
mod object_store_server;

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use super::object_store_server::{ACCESS_KEY, SECRET_KEY, object_store};
    use super::*;

    fn bucket(address: SocketAddr, secret: &str, allow_http: bool) -> Bucket {
        let builder = AmazonS3Builder::new()
            .with_endpoint(format!("http://{address}"))
            .with_allow_http(allow_http)
            .with_access_key_id(ACCESS_KEY)
            .with_secret_access_key(secret);
        Bucket::configured("s3://archive/a/b", builder).unwrap()
    }

    #[test]
    fn files_of_several_parts_return_unchanged() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("archive")).unwrap();
        let bucket = bucket(object_store(folder.path()), SECRET_KEY, true);
        let (file, returned) = (folder.path().join("file"), folder.path().join("returned"));
        for size in [0, 1, PART, 2 * PART + 1] {
            let content: Vec<u8> = (0..=250).cycle().take(size).collect();
            std::fs::write(&file, &content).unwrap();
            bucket.upload(&file, &format!("{size}.jsonl")).unwrap();
            assert!(bucket.download_to(&format!("{size}.jsonl"), &returned).unwrap());
            assert!(std::fs::read(&returned).unwrap() == content, "{size}");
            assert!(folder.path().join(format!("archive/a/b/{size}.jsonl")).exists());
        }
        std::fs::remove_file(&returned).unwrap();
        assert!(!bucket.download_to("missing.jsonl", &returned).unwrap());
        assert!(!returned.exists());
    }

    #[test]
    fn wrong_secret_and_unencrypted_endpoint_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("archive")).unwrap();
        let address = object_store(folder.path());
        let file = folder.path().join("file");
        std::fs::write(&file, "text").unwrap();
        for (bucket, problem) in [
            (bucket(address, "wrong", true), "403"),
            (bucket(address, SECRET_KEY, false), "expected an https:// endpoint, or AWS_ALLOW_HTTP=true"),
        ] {
            let refused = bucket.upload(&file, "name").unwrap_err().to_string();
            assert!(refused.contains(problem), "{refused}");
            let refused = bucket.download("name", &mut io::sink()).unwrap_err().to_string();
            assert!(refused.contains(problem), "{refused}");
        }
        assert_eq!(std::fs::read_dir(folder.path().join("archive")).unwrap().count(), 0);
    }

    #[test]
    fn names_invalid_url() {
        for url in ["s3://", "s3:///prefix", "s3://bucket?versionId=1", "s3://bucket/a/../b"] {
            let refused = Bucket::configured(url, AmazonS3Builder::new()).err().unwrap();
            assert!(refused.starts_with(url), "{refused}");
        }
    }
}
