// Adds passkeys, and signs approvals with them. Without this script, nothing can be signed.
"use strict";
(() => {
  function bytes(text) {
    const binary = atob(text.replaceAll("-", "+").replaceAll("_", "/"));
    return Uint8Array.from(binary, (character) => character.charCodeAt(0));
  }

  function text(buffer) {
    const binary = Array.from(new Uint8Array(buffer), (byte) => String.fromCharCode(byte)).join("");
    return btoa(binary).replaceAll("+", "-").replaceAll("/", "_").replaceAll("=", "");
  }

  function descriptors(ids) {
    return ids.split(" ").filter((id) => id !== "").map((id) => ({ type: "public-key", id: bytes(id) }));
  }

  async function register({ challenge, rp, user, person, known }) {
    const created = await navigator.credentials.create({
      publicKey: {
        challenge: bytes(challenge),
        rp: { id: rp, name: "ActPass" },
        user: { id: bytes(user), name: person, displayName: person },
        pubKeyCredParams: [{ type: "public-key", alg: -7 }],
        authenticatorSelection: { userVerification: "required" },
        excludeCredentials: descriptors(known),
        attestation: "none",
      },
    });
    return JSON.stringify({
      id: text(created.rawId),
      client_data_json: text(created.response.clientDataJSON),
      authenticator_data: text(created.response.getAuthenticatorData()),
      public_key: text(created.response.getPublicKey()),
    });
  }

  async function sign({ challenge, rp, passkeys, statement }) {
    const assertion = await navigator.credentials.get({
      publicKey: {
        challenge: bytes(challenge),
        rpId: rp,
        allowCredentials: descriptors(passkeys),
        userVerification: "required",
      },
    });
    return JSON.stringify({
      statement: JSON.parse(statement),
      key_id: text(assertion.rawId),
      authenticator_data: text(assertion.response.authenticatorData),
      client_data_json: text(assertion.response.clientDataJSON),
      signature: text(assertion.response.signature),
    });
  }

  function fail(form, error) {
    const place = form.querySelector(".unsigned") ?? document.getElementById("passkey-problem");
    place.textContent = error.name === "NotAllowedError"
      ? "The passkey was not used: it was cancelled, timed out, or is not on this device."
      : `The passkey was not used: ${error.message}`;
    place.hidden = false;
    for (const button of form.querySelectorAll("button")) button.disabled = false;
  }

  // Before the listener that disables the buttons of a form.
  addEventListener("submit", (event) => {
    const form = event.target;
    const adds = form.id === "add-passkey";
    const signs = form.dataset.statement !== undefined && event.submitter?.classList.contains("approve");
    const field = adds ? form.elements.passkey : form.elements.signature;
    if ((!adds && !signs) || field.value !== "") return;
    event.preventDefault();
    event.stopImmediatePropagation();
    const { submitter } = event;
    (adds ? register(form.dataset) : sign(form.dataset)).then((value) => {
      field.value = value;
      form.requestSubmit(submitter);
    }).catch((error) => fail(form, error));
  }, true);
})();
