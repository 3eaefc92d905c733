// QuPath: adds the cells that `breastseg segment` found in the open image. Choose the slide's folder of results.
import groovy.json.JsonSlurper
import qupath.fx.dialogs.FileChoosers

def folder = FileChoosers.promptForDirectory("Folder of results: OUTPUT/NAME", null)
if (folder == null) return
def result = new JsonSlurper().parse(new File(folder, "result.json"))
def server = getCurrentServer()
def (height, width) = result.provenance.slide.size_px
if (server.getHeight() != height || server.getWidth() != width) {
    println "The open image has ${server.getWidth()} x ${server.getHeight()} px, the result was made of ${width} x ${height}: open the slide of this result."
    return
}
def held = result.certificate
println "${result.cells.count} cells; ${held.flipped_ppm} ppm of the pixels differ on a moved grid (limit ${held.limit_ppm}): ${held.passed ? 'passed' : 'FAILED, look at report.html'}"
importObjectsFromFile(new File(folder, "cells.geojson.gz").getAbsolutePath())
fireHierarchyUpdate()
