// Keeps the page's files, and only those, so that it opens and can say so where the server cannot be reached.
// What the server answers comes first: a new version of it has a new page.

const FILES = [
  "/", "/web/page.css", "/web/page.js", "/web/api.js", "/web/feedback.js", "/web/photo.js",
  "/web/texts.js", "/web/icon.svg", "/web/icon-192.png", "/web/manifest.webmanifest",
];

self.addEventListener("install", (event) => {
  event.waitUntil(caches.open("page").then((kept) => kept.addAll(FILES)));
});

self.addEventListener("fetch", (event) => {
  const { method, url } = event.request;
  const { origin, pathname } = new URL(url);
  if (method === "GET" && origin === location.origin && FILES.includes(pathname)) event.respondWith(answer(event, pathname));
});

async function answer(event, path) {
  try {
    const fresh = await fetch(event.request);
    if (fresh.status === 200) event.waitUntil(keep(path, fresh.clone()));
    return fresh;
  } catch (error) {
    const found = await caches.match(path, { cacheName: "page" }).catch(() => undefined);
    if (found) return found;
    throw error;
  }
}

// Where there is no room, the page works all the same.
async function keep(path, fresh) {
  try {
    await (await caches.open("page")).put(path, fresh);
  } catch {}
}
