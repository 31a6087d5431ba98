// Keeps the page up to date. Everything works without it.
//
// What somebody is about to click never moves: a request that no longer waits stays where it is, and a new one comes last.
// No text becomes HTML here: the browser hands over a document.
"use strict";
(() => {
  const EVERY = 4000;
  const HIDDEN = 15000;
  const TIMEOUT = 20000;

  // Beside this script's folder, whatever path a proxy shows the page below; and with the filter of this page.
  const live = new URL("../live", document.currentScript.src);
  const query = new URLSearchParams(location.search);
  query.delete("decided");
  live.search = query;

  const requests = document.getElementById("requests");
  const stale = document.getElementById("stale");
  let timer;

  // Whether somebody writes, selects or stands in it.
  function inUse(element) {
    const selection = getSelection();
    return element.contains(document.activeElement)
      || (!selection.isCollapsed && selection.containsNode(element, true));
  }

  // It goes away where nobody sees it go.
  function end(card) {
    const note = card.querySelector("textarea");
    if (document.hidden && !inUse(card) && (note === null || note.value === "")) {
      card.remove();
      return;
    }
    card.classList.add("ended");
    card.querySelector(".gone").hidden = false;
    for (const button of card.querySelectorAll("button")) button.disabled = true;
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
        found.delete(card.id);
      }
    }
    for (const card of found.values()) requests.append(document.adoptNode(card));
    for (const id of ["as-of", "chain", "last"]) {
      const here = document.getElementById(id);
      if (!inUse(here)) here.replaceWith(document.adoptNode(next.getElementById(id)));
    }
    // Told to those who do not see it only when it is another.
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
        warn("Your session has ended. Refresh the page to log in again.");
      } else {
        warn("The gateway does not answer as it should, so this is not up to date.");
      }
      later();
    };
    request.send();
  }

  // A second click must not send a form again.
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
