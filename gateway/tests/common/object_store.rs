//! An object store with the interface of Amazon S3.

use std::net::SocketAddr;
use std::path::Path;

use http::{Method, Request};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto::Builder;
use s3s::Body;
use s3s::auth::SimpleAuth;
use s3s::service::S3ServiceBuilder;
use s3s_fs::FileSystem;
use tokio::net::TcpListener;
use tokio::runtime;

pub(crate) const ACCESS_KEY: &str = "key";
pub(crate) const SECRET_KEY: &str = "secret";

/// Serves the folder's subfolders as buckets, in a thread that ends with the process. Objects in the
/// bucket `damaged` change before they are read.
pub(crate) fn object_store(folder: &Path) -> SocketAddr {
    let mut service = S3ServiceBuilder::new(FileSystem::new(folder).unwrap());
    service.set_auth(SimpleAuth::from_single(ACCESS_KEY, SECRET_KEY));
    let service = service.build();
    let folder = folder.to_owned();
    let (started, address) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            started.send(listener.local_addr().unwrap()).unwrap();
            loop {
                let (connection, _) = listener.accept().await.unwrap();
                let (service, folder) = (service.clone(), folder.clone());
                let service = service_fn(move |request: Request<Incoming>| {
                    let path = request.uri().path();
                    if request.method() == Method::GET && path.starts_with("/damaged/") {
                        let file = folder.join(path.trim_start_matches('/'));
                        let mut content = std::fs::read(&file).unwrap();
                        content[0] ^= 1;
                        std::fs::write(&file, content).unwrap();
                    }
                    let service = service.clone();
                    async move { service.call(request.map(Body::from)).await }
                });
                tokio::spawn(async move {
                    let server = Builder::new(TokioExecutor::new());
                    let _ = server.serve_connection(TokioIo::new(connection), service).await;
                });
            }
        });
    });
    address.recv().unwrap()
}
