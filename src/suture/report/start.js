// Everything that stands on this page is brought to life.

if (byId("explorer")) explorer();
else for (const link of document.querySelectorAll("[data-feature-link]")) link.hidden = true;
for (const root of document.querySelectorAll(".study-table")) designTable(root);
for (const root of document.querySelectorAll("[data-matching]")) matchMaps(root);
figureChoices();
figures();
