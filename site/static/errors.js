// The page of errors, folded by symptom: each error opens by a click, by a link to it, and for printing.
const page = /\/errors\.html$/.test(location.pathname) && document.querySelector("article");
const headings = page ? [...page.querySelectorAll("section > section > h3")] : [];

for (const heading of headings) {
  const section = heading.parentElement;
  const details = document.createElement("details");
  const summary = document.createElement("summary");
  details.className = "error";
  summary.append(heading);
  details.append(summary, ...section.childNodes);
  section.append(details);
}

function openLinked() {
  const target = location.hash && document.getElementById(decodeURIComponent(location.hash.slice(1)));
  const details = target && (target.querySelector("details.error") || target.closest("details.error"));
  if (details && headings.length) {
    details.open = true;
    target.scrollIntoView();
  }
}

function openFound() {  // come from the search: open what holds its words
  const words = new URLSearchParams(location.search).get("highlight") || sessionStorage.getItem("course-search") || "";
  const wanted = words.toLowerCase().split(/\s+/).filter(Boolean);
  for (const details of document.querySelectorAll("details.error")) {
    const text = details.textContent.toLowerCase();
    if (wanted.length && wanted.every(word => text.includes(word))) details.open = true;
  }
  sessionStorage.removeItem("course-search");
}

if (headings.length) {
  openLinked();
  openFound();
  addEventListener("hashchange", openLinked);
  addEventListener("beforeprint", () => document.querySelectorAll("details.error").forEach(one => { one.open = true; }));
} else if (location.pathname.endsWith("search.html")) {
  const query = new URLSearchParams(location.search).get("q");
  if (query) sessionStorage.setItem("course-search", query);
}
