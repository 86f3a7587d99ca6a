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
  const { origin, pathname } = new URL(event.request.url);
  if (origin === location.origin && FILES.includes(pathname)) event.respondWith(answer(event.request, pathname));
});

async function answer(request, path) {
  const kept = await caches.open("page");
  try {
    const fresh = await fetch(request);
    if (fresh.status === 200) await kept.put(path, fresh.clone());
    return fresh;
  } catch (error) {
    const found = await kept.match(path);
    if (found) return found;
    throw error;
  }
}
