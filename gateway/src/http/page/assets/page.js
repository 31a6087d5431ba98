// Refreshes the page. The page works without this script.
//
// Content does not move under the pointer: a request that is no longer pending keeps its place, and
// new requests are appended. The script never parses text as HTML; the browser parses the response.
"use strict";
(() => {
  const EVERY = 4000;
  const HIDDEN = 15000;
  const TIMEOUT = 20000;

  // Relative to the script, so that it works under any base path; with the page's filter.
  const live = new URL("../live", document.currentScript.src);
  const query = new URLSearchParams(location.search);
  query.delete("decided");
  live.search = query;

  const requests = document.getElementById("requests");
  const stale = document.getElementById("stale");
  let timer;

  // Returns whether the user edits, selects or focuses the element.
  function inUse(element) {
    const selection = getSelection();
    return element.contains(document.activeElement)
      || (!selection.isCollapsed && selection.containsNode(element, true));
  }

  // Returns the hash of a card. The gateway refuses a decision on an earlier one.
  function hash(card) {
    return card.querySelector("input[name=shown_hash]")?.value;
  }

  // Removes the card while the page is hidden, otherwise marks it.
  function end(card) {
    const note = card.querySelector("textarea");
    if (document.hidden && !inUse(card) && (note === null || note.value === "")) {
      card.remove();
      return;
    }
    card.classList.add("ended");
    card.querySelector(".gone").hidden = false;
    for (const button of card.querySelectorAll("button, [name=select]")) button.disabled = true;
  }

  function show(next) {
    const found = new Map();
    for (const card of next.querySelectorAll("#requests > article")) found.set(card.id, card);
    for (const card of [...requests.children]) {
      const fresh = found.get(card.id);
      if (fresh === undefined) {
        end(card);
      } else {
        card.querySelector(".times").replaceWith(document.adoptNode(fresh.querySelector(".times")));
        card.querySelector(".changed").hidden = hash(card) === hash(fresh);
        found.delete(card.id);
      }
    }
    for (const card of found.values()) requests.append(document.adoptNode(card));
    for (const id of ["as-of", "halts", "chain", "last"]) {
      const here = document.getElementById(id);
      if (!inUse(here)) here.replaceWith(document.adoptNode(next.getElementById(id)));
    }
    // Announce to screen readers only if it changed.
    const waiting = document.getElementById("waiting");
    const now = next.getElementById("waiting").textContent;
    if (waiting.textContent !== now) waiting.textContent = now;
    document.title = next.title;
  }

  function warn(text) {
    if (stale.textContent !== text) stale.textContent = text;
    stale.hidden = text === "";
  }

  function later() {
    clearTimeout(timer);
    timer = setTimeout(refresh, document.hidden ? HIDDEN : EVERY);
  }

  function refresh() {
    const request = new XMLHttpRequest();
    request.open("GET", live);
    request.responseType = "document";
    request.timeout = TIMEOUT;
    request.onloadend = () => {
      if (request.status === 200 && request.response && request.response.getElementById("requests")) {
        show(request.response);
        warn("");
      } else if (request.status === 403) {
        warn("Your session has ended. Reload the page to log in again.");
      } else {
        warn("The gateway does not respond. This page may be out of date.");
      }
      later();
    };
    request.send();
  }

  // Prevents double submission.
  addEventListener("submit", (event) => {
    const buttons = event.target.querySelectorAll("button");
    setTimeout(() => { for (const button of buttons) button.disabled = true; });
  });

  addEventListener("pageshow", (event) => {
    if (event.persisted) location.reload();
  });

  addEventListener("visibilitychange", () => {
    if (!document.hidden) {
      clearTimeout(timer);
      refresh();
    }
  });

  later();
})();
