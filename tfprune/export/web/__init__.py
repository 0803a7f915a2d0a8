"""A page that classifies pictures in the browser, by the files of an export.

    page           `write_page`: the folder web/ of an export
    litert_js      LiteRT.js, which runs the files, from npm
    index.html, page.css, page.js, pixels.js
                   the page itself, as it is served
"""
