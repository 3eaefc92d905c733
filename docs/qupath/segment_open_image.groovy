// QuPath: runs `breastseg segment` on the open image and adds its cells. Set the three lines below.
import groovy.json.JsonSlurper

def breastseg = "/opt/breastseg/bin/breastseg"  // the program of the installation
def bundle = "/opt/breastseg/bundle"            // a folder made by breastseg-export
def options = []                                // such as ["--channel", "DAPI", "--bit-depth", "12"]

def uris = getCurrentServer().getURIs()
if (uris.size() != 1 || uris[0].getScheme() != "file") {
    println "The open image must be one file on this machine, got ${uris}."
    return
}
def file = new File(uris[0])
def output = new File(file.getParentFile(), "breastseg")
def words = [breastseg, "segment", bundle, file.path, "--output", output.path, "--force", "--json"] + options
def process = new ProcessBuilder(words.collect { it.toString() }).redirectError(ProcessBuilder.Redirect.INHERIT).start()
def answer = new JsonSlurper().parseText(process.inputStream.text)
def code = process.waitFor()
if (answer.error || answer.failed) {
    println "breastseg ended with ${code}: ${answer.error ?: answer.failed[0].error}"
    return
}
if (!answer.slides) {
    println "The open image has exactly the size of the bundle's frames, so it is a frame and has a mask but no cells: ${answer.frames[0].mask}"
    return
}
def slide = answer.slides[0]
if (!slide.certificate.passed) println "The certificate of this slide FAILED: look at report.html before you use its cells."
importObjectsFromFile(new File(slide.folder, "cells.geojson.gz").path)
fireHierarchyUpdate()
println "${slide.cells.count} cells from ${slide.folder}"
