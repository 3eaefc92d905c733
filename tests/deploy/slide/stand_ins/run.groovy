// Runs a script of docs/qupath where there is no QuPath: run.groovy SCRIPT IMAGE HEIGHT WIDTH FOLDER.
// The open image is IMAGE; FOLDER holds stand-ins for QuPath's classes.
import org.codehaus.groovy.control.CompilerConfiguration

class Server {
    File file
    int height, width

    List<URI> getURIs() { [file.toURI()] }
}

abstract class Functions extends Script {
    def getCurrentServer() { server }

    boolean importObjectsFromFile(String path) {
        println "imported ${path}"
        new File(path).isFile() || { throw new FileNotFoundException(path) }()
    }

    void fireHierarchyUpdate() { println "updated" }
}

def server = new Server(file: new File(args[1]), height: args[2] as int, width: args[3] as int)
def settings = new CompilerConfiguration(scriptBaseClass: Functions.name, classpath: args[4])
new GroovyShell(this.class.classLoader, new Binding(server: server), settings).evaluate(new File(args[0]))
