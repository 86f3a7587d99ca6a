// What the page says, by language; {names} are filled in. A language needs all the keys of the first one.

export const texts = {
  en: {
    intro: "Take a photo and see what it is.",
    photo: "Photo",
    answer: "Answer",
    preview: "Your photo",
    drop: "Drop a photo here, paste one, or choose one.",
    camera: "Take a photo",
    choose: "Choose a photo",
    model: "Model",
    title: "What was written beside it",
    key: "API key",
    send: "Send",
    details: "What the server says",
    history: "The last photos, until this page is closed",
    docs: "The API, for programs",
    sending: "Looking at it …",
    found: "{label}, {percent}",
    unsure: "Not sure: this looks unlike everything the model knows.",
    right: "That is right",
    wrong: "Wrong? It is …",
    what: "What is it?",
    none: "Something else",
    matches: "Classes that match: {count}.",
    matchesMore: "Classes that match: {count}, the first {shown} are shown. Type to find the others.",
    sendingFeedback: "Sending …",
    thanks: "Thank you. Kept as: {label}.",
    kept: "This server keeps the photo (without its place, time and camera), the answer and what you choose here, for at most {time}.",
    keptOpen: "This server keeps the photo (without its place, time and camera), the answer and what you choose here, until its operator removes them.",
    feedback404: "This photo is not kept any more.",
    feedback422: "The model that answered does not have this class.",
    feedback429: "Too much at once. Please try again in a moment.",
    feedbackOther: "The server could not keep this (status {status}).",
    made: "Answered by {model} {version} in {ms} ms",
    heat: "Show where it sees that",
    heating: "Looking again, at each part …",
    rests: "“{label}” rests most on the {place} of the photo.",
    nowhere: "“{label}” rests on no single part of the photo.",
    places: "top left, top, top right, left, middle, right, bottom left, bottom, bottom right",
    waiting: "{why} Trying again in {seconds} s.",
    offline: "You are offline.",
    unreachable: "The server does not answer. Is it running?",
    starting: "The server is starting. Try again in a moment.",
    invalid: "This key is not valid.",
    empty: "This file is empty.",
    unread: "This cannot be read as a file.",
    titleLong: "What was written beside it is too long: at most {most} characters are read.",
    400: "This file is not a photo that can be sent as it is.",
    401: "This server needs a key.",
    403: "This server does not allow that.",
    404: "This model is not served any more.",
    408: "The photo took too long to arrive.",
    413: "The photo is too large.",
    415: "This file is not a picture, or of a kind that this server cannot read.",
    422: "This picture is broken, or has too many pixels.",
    429: "Too many photos at once.",
    500: "The server failed on this photo.",
    503: "The server is busy.",
    507: "The server has no room for this.",
    other: "The server did not take this photo (status {status}).",
  },
  de: {
    intro: "Foto machen und sehen, was es ist.",
    photo: "Foto",
    answer: "Antwort",
    preview: "Ihr Foto",
    drop: "Ein Foto hierher ziehen, einfügen oder auswählen.",
    camera: "Foto aufnehmen",
    choose: "Foto auswählen",
    model: "Modell",
    title: "Was daneben stand",
    key: "API-Schlüssel",
    send: "Senden",
    details: "Was der Server sagt",
    history: "Die letzten Fotos, bis diese Seite geschlossen wird",
    docs: "Die Schnittstelle für Programme",
    sending: "Wird angesehen …",
    found: "{label}, {percent}",
    unsure: "Nicht sicher: Das ähnelt nichts, was das Modell kennt.",
    right: "Das stimmt",
    wrong: "Falsch? Es ist …",
    what: "Was ist es?",
    none: "Etwas anderes",
    matches: "Passende Klassen: {count}.",
    matchesMore: "Passende Klassen: {count}, die ersten {shown} sind zu sehen. Tippen findet die anderen.",
    sendingFeedback: "Wird gesendet …",
    thanks: "Danke. Gespeichert als: {label}.",
    kept: "Dieser Server speichert das Foto (ohne Ort, Zeit und Kamera), die Antwort und Ihre Wahl, höchstens {time} lang.",
    keptOpen: "Dieser Server speichert das Foto (ohne Ort, Zeit und Kamera), die Antwort und Ihre Wahl, bis der Betreiber sie löscht.",
    feedback404: "Dieses Foto ist nicht mehr gespeichert.",
    feedback422: "Das Modell, das geantwortet hat, kennt diese Klasse nicht.",
    feedback429: "Zu viel auf einmal. Bitte gleich noch einmal versuchen.",
    feedbackOther: "Der Server konnte das nicht speichern (Status {status}).",
    made: "Antwort von {model} {version} in {ms} ms",
    heat: "Zeigen, woran das zu sehen ist",
    heating: "Jeder Teil wird noch einmal angesehen …",
    rests: "„{label}“ ist vor allem hier zu sehen: {place}.",
    nowhere: "„{label}“ ist an keiner einzelnen Stelle zu sehen.",
    places: "oben links, oben, oben rechts, links, Mitte, rechts, unten links, unten, unten rechts",
    waiting: "{why} Neuer Versuch in {seconds} s.",
    offline: "Keine Verbindung zum Internet.",
    unreachable: "Der Server antwortet nicht. Läuft er?",
    starting: "Der Server startet noch. Bitte gleich noch einmal versuchen.",
    invalid: "Dieser Schlüssel ist nicht gültig.",
    empty: "Diese Datei ist leer.",
    unread: "Das lässt sich nicht als Datei lesen.",
    titleLong: "Was daneben stand, ist zu lang: Höchstens {most} Zeichen werden gelesen.",
    400: "Diese Datei ist kein Foto, das so gesendet werden kann.",
    401: "Dieser Server verlangt einen Schlüssel.",
    403: "Dieser Server erlaubt das nicht.",
    404: "Dieses Modell wird nicht mehr angeboten.",
    408: "Das Foto kam nicht rechtzeitig an.",
    413: "Das Foto ist zu groß.",
    415: "Diese Datei ist kein Bild, oder keines, das gelesen werden kann.",
    422: "Dieses Bild ist beschädigt oder hat zu viele Bildpunkte.",
    429: "Zu viele Fotos auf einmal.",
    500: "Der Server ist an diesem Foto gescheitert.",
    503: "Der Server ist ausgelastet.",
    507: "Der Server hat dafür keinen Platz.",
    other: "Der Server hat dieses Foto nicht angenommen (Status {status}).",
  },
};

export const language = (navigator.languages ?? [navigator.language])
  .map((tag) => tag.split("-")[0])
  .find((tag) => tag in texts) ?? "en";

export function text(name, values = {}) {
  return texts[language][name].replace(/\{(\w+)\}/g, (_, key) => values[key]);
}

export function number(value) {
  return new Intl.NumberFormat(language).format(value);
}

// A time in the largest unit that fits: 1 day, 12 hours.
export function duration(seconds) {
  const [unit, length] = Object.entries({ day: 86400, hour: 3600, minute: 60, second: 1 }).find(([, one]) => seconds >= one || one === 1);
  return new Intl.NumberFormat(language, { style: "unit", unit, unitDisplay: "long", maximumFractionDigits: 1 }).format(seconds / length);
}

// Percentages that nobody takes for certainty: 100 % and 0 % are not among them.
export function percent(share) {
  const format = new Intl.NumberFormat(language, { style: "percent" });
  if (share < 0.01) return `< ${format.format(0.01)}`;
  return share > 0.99 ? `> ${format.format(0.99)}` : format.format(share);
}
