// QuPath: adds the cells that `breastseg segment` found in the open image. Choose the slide's folder of results.
import groovy.json.JsonSlurper
import qupath.fx.dialogs.FileChoosers

def folder = FileChoosers.promptForDirectory("Folder of results: OUTPUT/NAME", null)
if (folder == null) return
def result = new JsonSlurper().parse(new File(folder, "result.json"))
def read = result.provenance.slide
// A rescaled run states the size that it analysed; a last partial pixel is dropped.
def step = read.conversion.rescaled_to_um ? (double) read.conversion.rescaled_to_um / read.conversion.pixel_size_um : 1.0d
def fits = { int side, int analysed -> Math.abs(side - analysed * step) < step }
def server = getCurrentServer()
def (height, width) = read.size_px
if (!fits(server.getHeight(), height) || !fits(server.getWidth(), width)) {
    println "The open image has ${server.getWidth()} x ${server.getHeight()} px, the result was made of ${Math.round(width * step)} x ${Math.round(height * step)}: open the slide of this result."
    return
}
def held = result.certificate
println "${result.cells.count} cells; ${held.flipped_ppm} ppm of the pixels differ on a moved grid (limit ${held.limit_ppm}): ${held.passed ? 'passed' : 'FAILED, look at report.html'}"
importObjectsFromFile(new File(folder, "cells.geojson.gz").getAbsolutePath())
fireHierarchyUpdate()
