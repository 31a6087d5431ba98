//! The client builder.

use std::sync::Arc;
use std::time::Duration;

use crate::base_url::BaseUrl;
use crate::breaker::DEFAULT_CIRCUIT_FAILURES;
use crate::client::{ActPass, TimeSource};
use crate::clock::Clock;
use crate::config::{self, Config};
use crate::dpop::Prover;
#[cfg(feature = "http")]
use crate::endpoint::Endpoint;
use crate::error::Error;
use crate::halts::SpawnWatch;
#[cfg(feature = "reqwest")]
use crate::http::ReqwestTransport;
#[cfg(feature = "http")]
use crate::http::{CaVariable, ConnectOptions, parse_ca};
use crate::http_requests::HttpRequests;
use crate::settings::Settings;
use crate::signed_approvals::ApprovalVerifier;
use crate::transport::Transport;
use actpass_protocol::{Mode, Secret};

impl ActPass {
    /// Returns a builder for a client.
    pub fn builder() -> ActPassBuilder {
        ActPassBuilder::default()
    }
}

/// Builds a client; see [`ActPass::builder`].
///
/// ```
/// use actpass_core::{ActPass, Mode};
/// use std::time::Duration;
///
/// let actpass = ActPass::builder()
///     .api_key("apk_1234")
///     .base_url("https://gateway.example")
///     .timeout(Duration::from_secs(10))
///     .mode(Mode::Strict)
///     .build()?;
/// assert!(!format!("{actpass:?}").contains("apk_1234"));
/// assert!(ActPass::builder().api_key("apk_1234").base_url("http://gateway.example").build().is_err());
/// # Ok::<(), actpass_core::Error>(())
/// ```
#[derive(Debug, Default)]
pub struct ActPassBuilder {
    api_key: Option<Secret>,
    tenant_id: Option<String>,
    agent_id: Option<String>,
    base_url: Option<String>,
    timeout: Option<Duration>,
    connect_timeout: Option<Duration>,
    circuit_failures: Option<u32>,
    max_retries: Option<u32>,
    mode: Mode,
    #[cfg(feature = "http")]
    ca: Option<Vec<u8>>,
    approval_keys: Option<String>,
    dpop_key: Option<Secret>,
    #[cfg(feature = "http")]
    ca_variables: Vec<CaVariable>,
    allow_insecure_http: bool,
    user_agent: Option<String>,
    transport: Option<Box<dyn Transport>>,
    http_transport: Option<fn(HttpRequests) -> Box<dyn Transport>>,
    clock: Option<Box<dyn Clock>>,
    spawn_watch: Option<SpawnWatch>,
    #[cfg(feature = "reqwest")]
    reqwest: Option<reqwest::ClientBuilder>,
    #[cfg(feature = "testing")]
    executions: Option<Arc<dyn config::ExecutionLog>>,
}

impl ActPassBuilder {
    /// Sets the API key. Default: the environment variable `ACTPASS_API_KEY`.
    #[must_use]
    pub fn api_key(mut self, key: impl Into<Secret>) -> Self {
        self.api_key = Some(key.into());
        self
    }

    /// Sets the tenant, a routing hint. Default: none. The gateway authorizes by the key.
    #[must_use]
    pub fn tenant_id(mut self, tenant_id: impl Into<String>) -> Self {
        self.tenant_id = Some(tenant_id.into());
        self
    }

    /// Sets the agent's name, which must not be empty. Default: `sdk`.
    #[must_use]
    pub fn agent_id(mut self, agent_id: impl Into<String>) -> Self {
        self.agent_id = Some(agent_id.into());
        self
    }

    /// Sets the gateway's URL. Default: the environment variable `ACTPASS_API_BASE_URL`, else
    /// [`DEFAULT_BASE_URL`](crate::DEFAULT_BASE_URL).
    #[must_use]
    pub fn base_url(mut self, base_url: impl Into<String>) -> Self {
        self.base_url = Some(base_url.into());
        self
    }

    /// Sets the total timeout of a call, retries and backoff included. Default: 30 s; maximum: one
    /// day.
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }

    /// Sets the connect timeout of each attempt. Default: 5 s.
    #[must_use]
    pub fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.connect_timeout = Some(timeout);
        self
    }

    /// Sets the maximum number of retries of a call. Default: 2; maximum: 10.
    #[must_use]
    pub fn max_retries(mut self, retries: u32) -> Self {
        self.max_retries = Some(retries);
        self
    }

    /// Sets the number of consecutive unreachable calls that open the circuit: see
    /// [`ActPass::circuit`]. Default: 5; 0 disables the circuit breaker.
    #[must_use]
    pub fn circuit_failures(mut self, failures: u32) -> Self {
        self.circuit_failures = Some(failures);
        self
    }

    /// Sets the mode of actions that set none. Default: [`Mode::Enforce`].
    #[must_use]
    pub fn mode(mut self, mode: Mode) -> Self {
        self.mode = mode;
        self
    }

    /// Trusts the certificates in this PEM text in addition: as authorities, and each also as a
    /// server's own certificate.
    ///
    /// The other trusted authorities are those in the file `SSL_CERT_FILE` and the directories
    /// `SSL_CERT_DIR`, if either variable is set; else the system's; else, if the system has none,
    /// those bundled with this library.
    #[cfg(feature = "http")]
    #[must_use]
    pub fn ca(mut self, pem: impl Into<Vec<u8>>) -> Self {
        self.ca = Some(pem.into());
        self
    }

    /// Requires that these passkeys sign approvals: JSON with `rp_id`, `origins` and `keys`, a list of
    /// P-256 JWKs. An approved action without a valid signature of its person is blocked
    /// (`actpass.approval_unsigned`), so that a gateway that was tampered with approves nothing. The
    /// `agent_id` must be the one of the API key, if the key is bound to an agent. Default: none.
    ///
    /// [`ApprovalKeys::parse`](crate::signed_approval::ApprovalKeys::parse) lists all members.
    #[must_use]
    pub fn approval_keys(mut self, json: impl Into<String>) -> Self {
        self.approval_keys = Some(json.into());
        self
    }

    /// Sets the private key that the API key is bound to (DPoP, RFC 9449): P-256 or Ed25519 in PKCS#8
    /// PEM, not encrypted. Each request carries a proof of possession, so that a stolen API key alone
    /// is useless. The gateway binds the API key to its [thumbprint](crate::dpop_thumbprint).
    /// Default: the file in the environment variable `ACTPASS_DPOP_KEY_FILE`, else none.
    ///
    /// A gateway with its own nonces demands a proof with a nonce by a 401; the client repeats the
    /// request once with it. A [custom transport](ActPassBuilder::transport) gets the proof in
    /// [`Request::proof`](crate::transport::Request::proof).
    #[must_use]
    pub fn dpop_key(mut self, pem: impl Into<Secret>) -> Self {
        self.dpop_key = Some(pem.into());
        self
    }

    /// Sets the environment variables that name certificate authorities in a binding's language.
    /// Default: none. A variable that names an unreadable file is an error, like `SSL_CERT_FILE`.
    #[cfg(feature = "http")]
    #[must_use]
    pub fn ca_variables(mut self, variables: impl IntoIterator<Item = CaVariable>) -> Self {
        self.ca_variables = variables.into_iter().collect();
        self
    }

    /// Permits plain http to another host, where anyone on the network path can read the API key
    /// and forge decisions.
    #[must_use]
    pub fn danger_allow_insecure_http(mut self, allow: bool) -> Self {
        self.allow_insecure_http = allow;
        self
    }

    /// Sets the `user-agent` header. Default: `actpass-rust/VERSION`.
    #[must_use]
    pub fn user_agent(mut self, user_agent: impl Into<String>) -> Self {
        self.user_agent = Some(user_agent.into());
        self
    }

    /// Sets the transport that replaces HTTP.
    #[must_use]
    pub fn transport(mut self, transport: impl Transport) -> Self {
        self.transport = Some(Box::new(transport));
        self
    }

    /// Sets the transport that sends the HTTP requests of the client with the host's HTTP client.
    #[must_use]
    pub fn http_transport(mut self, make: fn(HttpRequests) -> Box<dyn Transport>) -> Self {
        self.http_transport = Some(make);
        self
    }

    /// Replaces the gateway by a scripted one, which also records the actions that run. Sets the
    /// transport.
    #[cfg(feature = "testing")]
    #[must_use]
    pub fn scripted_gateway(mut self, gateway: &crate::testing::ScriptedGateway) -> Self {
        self.executions = Some(Arc::new(gateway.clone()));
        self.transport(gateway.clone())
    }

    /// Sets the source of time and randomness, for a transport that does not run on tokio. Default:
    /// [`TokioClock`](crate::TokioClock), which needs a tokio runtime.
    #[must_use]
    pub fn clock(mut self, clock: impl Clock) -> Self {
        self.clock = Some(Box::new(clock));
        self
    }

    /// Sets how the watch for stops of running functions is started, for a program without a tokio
    /// runtime or with one that does not run all the time. `spawn` must not block. Default: a task
    /// of the tokio runtime in which the function begins; with [`clock`](ActPassBuilder::clock),
    /// no watch.
    ///
    /// ```
    /// use actpass_core::ActPass;
    ///
    /// let builder = ActPass::builder().api_key("apk_dev").spawn_watch(|watch| drop(tokio::spawn(watch)));
    /// assert!(builder.build().is_ok());
    /// ```
    #[must_use]
    pub fn spawn_watch(mut self, spawn: SpawnWatch) -> Self {
        self.spawn_watch = Some(spawn);
        self
    }

    /// Sends requests through a `reqwest` client built from `client`, with its proxies, name
    /// resolution and TLS settings. [`ca`](ActPassBuilder::ca) has no effect on it.
    ///
    /// Redirects are never followed and requests never repeated, even if `client` sets this. Over
    /// plain `http` no proxy is used. The connect timeout is this builder's. The connection time is
    /// unknown, so a replayed `allow` with an age is never accepted as the response to this call's
    /// own attempt.
    ///
    /// ```
    /// use actpass_core::ActPass;
    ///
    /// # rustls::crypto::ring::default_provider().install_default().unwrap();
    /// let client = reqwest::Client::builder().tls_certs_only([]);
    /// let actpass = ActPass::builder().api_key("apk_dev").base_url("http://127.0.0.1:8787").reqwest(client).build()?;
    /// # Ok::<(), actpass_core::Error>(())
    /// ```
    #[cfg(feature = "reqwest")]
    #[must_use]
    pub fn reqwest(mut self, client: reqwest::ClientBuilder) -> Self {
        self.reqwest = Some(client);
        self
    }

    /// Builds the client. Nothing is sent.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Config`](crate::ErrorKind::Config), naming the setting and the expected value.
    pub fn build(mut self) -> Result<ActPass, Error> {
        let spawn = self.spawn_watch.take();
        Ok(self.unwatched()?.watched_by(spawn))
    }

    fn unwatched(mut self) -> Result<ActPass, Error> {
        #[cfg(feature = "reqwest")]
        if let Some(client) = self.reqwest.take() {
            return self.over_reqwest(client);
        }
        if self.transport.is_none() && self.http_transport.is_none() {
            return self.over_http();
        }
        #[cfg(feature = "http")]
        parse_ca(self.ca.as_deref())?;
        let (time, given, make) = (self.time()?, self.transport.take(), self.http_transport.take());
        let config = self.config()?;
        let made = given.or_else(|| Some(make?(HttpRequests::new(&config))));
        let transport = made.ok_or_else(|| Error::config("transport", "expected one"))?;
        Ok(ActPass::with_transport(Arc::new(config), transport, time))
    }

    #[cfg(feature = "reqwest")]
    fn over_reqwest(mut self, client: reqwest::ClientBuilder) -> Result<ActPass, Error> {
        for (setting, is_given) in [("transport", self.transport.is_some()), ("ca", self.ca.is_some())] {
            if is_given {
                return Err(Error::config(setting, "cannot be combined with reqwest, which has its own"));
            }
        }
        let time = self.time()?;
        let config = self.config()?;
        let transport = ReqwestTransport::new(&config, client)?;
        Ok(ActPass::with_transport(Arc::new(config), Box::new(transport), time))
    }

    #[cfg(feature = "http")]
    fn over_http(self) -> Result<ActPass, Error> {
        Ok(self.settings()?.unwatched())
    }

    #[cfg(not(feature = "http"))]
    fn over_http(self) -> Result<ActPass, Error> {
        Err(Error::config("transport", "required without the feature http"))
    }

    #[cfg(feature = "http")]
    fn time(&mut self) -> Result<TimeSource, Error> {
        Ok(self.clock.take().map_or(TimeSource::Tokio, TimeSource::Given))
    }

    #[cfg(not(feature = "http"))]
    fn time(&mut self) -> Result<TimeSource, Error> {
        let none = || Error::config("clock", "required without the feature http");
        self.clock.take().map(TimeSource::Given).ok_or_else(none)
    }

    /// Validates and keeps the settings, to create clients with their own connections or an
    /// [engine](crate::engine): see [`Settings`].
    ///
    /// # Errors
    ///
    /// As [`ActPassBuilder::build`]. A transport or a clock is an error here.
    pub fn settings(self) -> Result<Settings, Error> {
        #[cfg(feature = "reqwest")]
        if self.reqwest.is_some() {
            return Err(Error::config("reqwest", "not supported by settings(): each client creates its own"));
        }
        if self.clock.is_some() {
            return Err(Error::config("clock", "only supported by build() with a custom transport"));
        }
        if self.transport.is_some() {
            return Err(Error::config(
                "transport",
                "not supported by settings(): each client creates its own",
            ));
        }
        self.checked()
    }

    /// Builds a connection to one path of the gateway, for messages that authenticate themselves.
    /// Nothing is sent. The API key is neither needed nor used.
    ///
    /// # Errors
    ///
    /// As [`ActPassBuilder::build`], and if `path` is invalid.
    ///
    /// ```
    /// use actpass_core::ActPass;
    ///
    /// let endpoint = ActPass::builder().base_url("http://127.0.0.1:8787").endpoint("/acs")?;
    /// # let _ = endpoint;
    /// # Ok::<(), actpass_core::Error>(())
    /// ```
    #[cfg(feature = "http")]
    pub fn endpoint(mut self, path: &str) -> Result<Endpoint, Error> {
        // Settings have a key; this one is in no request.
        self.api_key = Some(Secret::new("unused"));
        let (config, options) = self.connected()?;
        Endpoint::new(&config, &options, path)
    }

    #[cfg(feature = "http")]
    fn checked(self) -> Result<Settings, Error> {
        let (config, connect_options) = self.connected()?;
        Ok(Settings::new(config, connect_options))
    }

    #[cfg(feature = "http")]
    fn connected(mut self) -> Result<(Config, ConnectOptions), Error> {
        let (ca, ca_variables) = (self.ca.take(), std::mem::take(&mut self.ca_variables));
        let mut config = self.config()?;
        let connect_options =
            ConnectOptions::for_gateway(&config.base_url, &parse_ca(ca.as_deref())?, ca_variables)?;
        config.via_proxy = connect_options.via_proxy();
        Ok((config, connect_options))
    }

    #[cfg(not(feature = "http"))]
    fn checked(self) -> Result<Settings, Error> {
        Ok(Settings::new(self.config()?))
    }

    fn config(self) -> Result<Config, Error> {
        let api_key = config::api_key(self.api_key)?;
        let prover = Prover::choose(self.dpop_key, &api_key)?;
        let timeout = config::timeout("timeout", self.timeout.unwrap_or(config::DEFAULT_TIMEOUT))?;
        let connect_timeout = match self.connect_timeout {
            Some(given) => config::timeout("connect_timeout", given)?,
            None => config::DEFAULT_CONNECT_TIMEOUT.min(timeout),
        };
        let user_agent =
            self.user_agent.unwrap_or_else(|| concat!("actpass-rust/", env!("CARGO_PKG_VERSION")).to_owned());
        let user_agent = config::header("user_agent", Some(user_agent))?
            .ok_or_else(|| Error::config("user_agent", "expected a name, found an empty string"))?;
        Ok(Config {
            authorization: config::authorization(&api_key, prover.as_ref())?,
            api_key,
            prover: prover.map(Arc::new),
            tenant_id: config::header("tenant_id", self.tenant_id)?,
            agent_id: config::agent_id(self.agent_id)?,
            base_url: BaseUrl::choose(self.base_url, self.allow_insecure_http)?,
            timeout,
            connect_timeout,
            circuit_failures: self.circuit_failures.unwrap_or(DEFAULT_CIRCUIT_FAILURES),
            max_retries: config::max_retries(self.max_retries.unwrap_or(config::DEFAULT_MAX_RETRIES))?,
            mode: self.mode,
            seen_epoch: Arc::default(),
            approvals: self.approval_keys.as_deref().map(ApprovalVerifier::parse).transpose()?.map(Arc::new),
            via_proxy: String::new(),
            #[cfg(feature = "testing")]
            executions: self.executions,
            user_agent,
        })
    }
}
